"""One pass over all sources: rows are read, checked, shown tools and measured, in a stream.

What is kept of a row is a few numbers; what can only be said at the end (near-duplicates, imbalance) comes from them.
"""

import random
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import Catalogue
from tuneline.configs.data import Data, Source
from tuneline.core.errors import BadData
from tuneline.core.paths import resolve
from tuneline.stages.prepare.checks.duplicates import Index
from tuneline.stages.prepare.checks.language import language_of, other_than
from tuneline.stages.prepare.checks.presidio import Presidio
from tuneline.stages.prepare.checks.problems import Findings, Problem
from tuneline.stages.prepare.checks.row_checks import Toolbox
from tuneline.stages.prepare.formats.reader import Mend, Read, read_file, read_source
from tuneline.stages.prepare.rendering.renderer import Measured, Renderer
from tuneline.stages.prepare.rendering.tool_preselector import Preselector
from tuneline.stages.prepare.rendering.worker_pool import Aside, show
from tuneline.stages.prepare.rows import Row, row_of, show_tools
from tuneline.stages.prepare.synthesis.grammar import expand

BATCH = 256
AHEAD = 8
"""Batches that are measured while others are read."""
Found = tuple[int, tuple[Row, int | None]]
"""The number of a source, a row of it, and the row's number among the rows of files."""
FEWEST_ROWS, FEWEST_OF_A_STYLE = 50, 30
RARE, COMMON = 0.2, 5.0
"""A label with less than a fifth, or more than five times, of what the labels have in the middle is out of balance."""
LANGUAGES_SAMPLED = 500
"""Rows of a source whose language is counted for the composition; all are checked if `data.languages` is given."""
EXAMPLES = 10


@dataclass
class Part:
    """What a source came to."""

    name: str
    weight: float = 1.0
    rows: int = 0
    tokens: int = 0
    learned: int = 0
    problems: int = 0
    files: dict[str, str] = field(default_factory=dict)
    """Each file and the format it was found to be in."""
    languages: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row that is kept, and what is known of it."""

    row: Row
    part: int
    tokens: int
    learned: int
    label: str
    place: int | None
    """Its number among the rows of files, as duplicates are told by; None for rows that were made."""
    line: bytes | None = None
    """The row as JSON, where it was measured."""


class Examination:
    """Rows of all sources with their problems; call `rows` to the end, then `finish`."""

    def __init__(
        self,
        data: Data,
        catalogue: Catalogue | None,
        renderer: Renderer | None,
        *,
        made: Callable[[Source, int], Iterator[Row]] | None = None,
        mend: Mend | None = None,
        selector: Preselector | None = None,
    ) -> None:
        self.data, self.catalogue, self.renderer = data, catalogue, renderer
        self.findings, self.toolbox = Findings(), Toolbox(catalogue)
        self.parts = [Part(name_of(source), source.weight) for source in data.sources]
        self.carriers: set[str] = set()
        self.labels, self.styles, self.called = Counter[str](), Counter[str](), Counter[str]()
        self.lengths, self.examples = array("I"), list[Row]()
        self.twins: dict[int, int] = {}
        """Rows of files that are equal or near to an earlier one, or to a test row (-1)."""
        self._made, self._mend, self.selector = made, mend, selector
        self._index, self._held_out = Index(), 0
        self._presidio = Presidio() if data.personal == "presidio" else None
        self._names: list[str] = []
        self._file_of, self._line_of = array("I"), array("I")
        self._rng, self._sampler, self._seen = random.Random(data.seed), random.Random(data.seed), 0
        if renderer:
            renderer.catalogue = None
            show(renderer, self.toolbox.tools)

    @property
    def rng(self) -> random.Random:
        """Where rows' tools were drawn from; goes on with the shuffle."""
        return self._rng

    def rows(self) -> Iterator[Entry]:
        """All rows that can be learned from, in the order of the sources."""
        self._read_held_out()
        entries = (
            (part, found) for part, source in enumerate(self.data.sources) for found in self._rows_of(part, source)
        )
        if not self.renderer:
            while batch := list(islice(entries, BATCH)):
                shown = [(part, (self._shown(row), place)) for part, (row, place) in batch]
                yield from self._entries(shown, [(0, 0, "")] * len(batch))
            return
        with Aside(self.renderer, self.toolbox.tools) as aside:
            waiting: deque[Callable[[], Iterator[Entry]]] = deque()
            while batch := list(islice(entries, BATCH)):
                if len(waiting) == AHEAD:
                    yield from waiting.popleft()()
                waiting.append(self._measuring(batch, aside))
            for measured in waiting:
                yield from measured()

    def finish(self) -> Findings:
        """All findings, those that need all rows included."""
        for number, earlier in self._index.near():
            self._note_twin(number, earlier, near=True)
        self._check_balance(self.labels, "tool")
        if self.styles:
            self._check_balance(self.styles, "style")
            for style, count in self.styles.items():
                if count < FEWEST_OF_A_STYLE:
                    self._found("few_of_a_style", "", 0, f"style {style!r} has {count} rows")
        for language in sorted(self._presidio.without_names) if self._presidio else ():
            told = f"no spaCy model for {language!r} is installed: names of people are not looked for in it"
            self._found("names_not_found", "", 0, told)
        for part in self.parts:
            if part.rows < FEWEST_ROWS:
                kind = "small_source" if part.rows else "empty_source"
                self._found(kind, part.name, 0, f"{part.rows} rows" if part.rows else "no row can be learned from")
        return self.findings

    def _rows_of(self, part: int, source: Source) -> Iterator[tuple[Row, int | None]]:
        if source.path:
            yield from self._read(part, source)
        elif source.grammar:
            rng = random.Random(f"{self.data.seed} {part}")
            for request in expand(source, rng):
                if self.catalogue is None or request.tool not in self.catalogue.tools:
                    raise BadData(
                        f"{source.grammar}: handlers.{request.tool}: not in the catalogue ({self.data.tools})"
                    )
                self.carriers.add(request.carrier)
                yield row_of(request, self.data.system, source.grammar.name), None
        else:
            assert self._made
            for row in self._made(source, part):
                yield row, None

    def _read(self, part: int, source: Source) -> Iterator[tuple[Row, int | None]]:
        stated = self.parts[part].files
        found = read_source(
            source,
            self.toolbox,
            keep_thinking=self.data.keep_thinking,
            stated=lambda file, form: stated.__setitem__(str(file), form),
            mend=self._mend,
        )
        for one in found:
            if isinstance(one, Problem):
                self.parts[part].problems += 1
                self.findings.add(one)
                continue
            place = len(self._line_of)
            if not self._names or self._names[-1] != one.file:
                self._names.append(one.file)
            self._file_of.append(len(self._names) - 1)
            self._line_of.append(one.line)
            if self._presidio:
                for kind, first in self._presidio.first_of_each(one.text).items():
                    self._found(first.severity, one.file, one.line, f"the text holds {kind}: {first.masked}")
            earlier = self._index.add(one.text)
            if earlier is not None and self._note_twin(self._held_out + place, earlier, near=False):
                continue
            self._check_language(part, one)
            yield self._with_system(one.row), place

    def _with_system(self, row: Row) -> Row:
        if not self.data.system or not row.messages or row.messages[0].role == "system":
            return row
        head = {"role": "system", "content": self.data.system}
        return Row.model_validate(row.model_dump(exclude_none=True) | {"messages": [head, *row.chat()]})

    def _measuring(self, batch: list[Found], aside: Aside) -> Callable[[], Iterator[Entry]]:
        shown = [(part, (self._shown(row), place)) for part, (row, place) in batch]
        lines = [row.model_dump_json(exclude_none=True).encode() for _, (row, _) in shown]
        measures = aside.measure(lines)
        return lambda: self._entries(shown, measures(), lines)

    def _entries(self, batch: list[Found], measures: list[Measured], lines: Sequence[bytes] = ()) -> Iterator[Entry]:
        for (part, (row, place)), (tokens, learned, refused), line in zip_longest(batch, measures, lines):
            if refused or tokens > self.data.max_tokens or (self.renderer and not learned):
                file, at = self._where(place) if place is not None else (self.parts[part].name, 0)
                if refused:
                    self._found("not_rendered", file, at, f"the chat template refuses it: {refused}")
                elif not learned:
                    self._found("nothing_learned", file, at, "no token is learned")
                else:
                    self._found("too_long", file, at, f"{tokens} tokens, data.max_tokens is {self.data.max_tokens}")
            else:
                yield self._kept(row, part, tokens, learned, place, line)

    def _kept(self, row: Row, part: int, tokens: int, learned: int, place: int | None, line: bytes | None) -> Entry:
        one = self.parts[part]
        one.rows, one.tokens, one.learned = one.rows + 1, one.tokens + tokens, one.learned + learned
        self.lengths.append(tokens)
        called = row.called
        self.called.update(set(called))
        label = called[0] if called else ""
        if row.style:
            self.styles[row.style] += 1
        if label:
            self.labels[label] += 1
        self._sample(row)
        return Entry(row, part, tokens, learned, row.style or label, place, line)

    def _shown(self, row: Row) -> Row:
        if self.selector and row.messages and not row.style:
            return self._selected(row, self.selector)
        if not self.catalogue or self.data.catalogue != "shown" or row.tools or not row.messages or row.style:
            return row
        return show_tools(row, self.catalogue, self.data.distractors, self.data.whole_catalogue, self._rng)

    def _selected(self, row: Row, selector: Preselector) -> Row:
        """The row with the tools nearest to its first request, those it calls in any case, in the catalogue's order."""
        if row.tools and len(row.tools) <= self.data.nearest:
            return row
        asked = next((m.content or "" for m in row.messages if m.role == "user"), "")
        called = list(dict.fromkeys(row.called))
        others = [name for name in selector.nearest(asked, self.data.nearest) if name not in called]
        taken = {*called, *others[: max(0, self.data.nearest - len(called))]}
        return row.model_copy(update={"tools": [name for name in self.toolbox.tools if name in taken]})

    def _sample(self, row: Row) -> None:
        """Ten rows of all, each as likely as any other (Vitter's algorithm R)."""
        self._seen += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(row)
        elif (at := self._sampler.randrange(self._seen)) < EXAMPLES:
            self.examples[at] = row

    def _read_held_out(self) -> None:
        for path in self.data.held_out:
            for found in read_file(resolve(path), self.toolbox):
                if isinstance(found, Problem):
                    self.findings.add(found)
                else:
                    self._index.add(found.text)
        self._held_out = self._index.count

    def _note_twin(self, number: int, earlier: int, *, near: bool) -> bool:
        """Counts a duplicate; True if its row is to be left out now."""
        if number < self._held_out:
            return False
        place = number - self._held_out
        file, line = self._where(place)
        if earlier < self._held_out:
            self.twins[place] = -1
            kind, told = ("near_test" if near else "in_test"), "nearly equal to" if near else "equal to"
            self._found(kind, file, line, f"{told} a row of data.held_out")
            return not near
        first = earlier - self._held_out
        self.twins[place] = first
        there = ":".join(map(str, self._where(first)))
        kind = "near_duplicate" if near else "duplicate"
        self._found(kind, file, line, f"{'nearly ' if near else ''}equal to {there}")
        return not near and self.data.duplicates == "drop"

    def _check_language(self, part: int, read: Read) -> None:
        counted = self.parts[part].languages
        if not self.data.languages and counted.total() >= LANGUAGES_SAMPLED:
            return
        answers = [m.content for m in read.row.messages if m.role == "assistant" and m.content]
        text = "\n".join(answers) or read.text
        if counted.total() < LANGUAGES_SAMPLED:
            counted[language_of(text) or "unsure"] += 1
        if self.data.languages and (language := other_than(text, self.data.languages)):
            told = f"in {language!r}, data.languages is {', '.join(self.data.languages)}"
            self._found("wrong_language", read.file, read.line, told)

    def _check_balance(self, labels: Counter[str], what: str) -> None:
        if len(labels) < 2:
            return
        counts = sorted(labels.values())
        middle = (counts[(len(counts) - 1) // 2] + counts[len(counts) // 2]) / 2
        for label, count in sorted(labels.items(), key=lambda item: item[1]):
            if count < RARE * middle or count > COMMON * middle:
                self._found("imbalance", "", 0, f"{what} {label!r} has {count} rows, the middle one {middle:g}")

    def _where(self, place: int) -> tuple[str, int]:
        return self._names[self._file_of[place]], self._line_of[place]

    def _found(self, kind: str, file: str, line: int, text: str) -> None:
        self.findings.add(Problem(kind, file, line, text))

    def measures(self) -> dict[str, float]:
        """What `data.require` can ask for."""
        rows, counts = len(self.lengths), self.findings.counts
        return {
            "rows": rows,
            "tokens": sum(self.lengths),
            "average_tokens": round(sum(self.lengths) / rows, 1) if rows else 0,
            "longest_tokens": max(self.lengths, default=0),
            "format_errors": self.findings.count("error", format_only=True),
            "errors": self.findings.count("error"),
            "warnings": self.findings.count("warning"),
            "handler_coverage": len(self.called),
            "styles": len(self.styles),
            "duplicates": counts["duplicate"],
            "near_duplicates": counts["near_duplicate"],
            "too_long": counts["too_long"],
        }

    def composition(self) -> list[dict[str, Any]]:
        """Each source: rows, tokens, its share of both as they are seen in training, files and formats."""
        total_rows = sum(part.rows * part.weight for part in self.parts) or 1
        total_tokens = sum(part.tokens * part.weight for part in self.parts) or 1
        return [
            {
                "source": part.name,
                "rows": part.rows,
                "tokens": part.tokens,
                "learned_tokens": part.learned,
                "weight": part.weight,
                "share_of_rows": round(part.rows * part.weight / total_rows, 4),
                "share_of_tokens": round(part.tokens * part.weight / total_tokens, 4),
                "problems": part.problems,
                "files": part.files,
                "languages": dict(part.languages.most_common(5)),
            }
            for part in self.parts
        ]


def name_of(source: Source) -> str:
    """What a source is called where it is told of."""
    if source.per_tool:
        return f"{source.per_tool} examples a tool"
    path: Path | None = source.path or source.grammar
    return str(path)
