"""Reads, checks, renders and measures the rows of all sources in one streaming pass.

Of each row only a few numbers are held in memory. Near-duplicates and imbalance, which need all rows, are found from
these numbers at the end.
"""

import random
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

from tuneline.configs.catalogue import Catalogue
from tuneline.configs.data import Data, Source
from tuneline.core.errors import BadData
from tuneline.core.paths import resolve
from tuneline.stages.prepare.checks.balance import check_balance, check_source_sizes, check_style_sizes
from tuneline.stages.prepare.checks.duplicate_rows import DuplicateRows, RowLocations
from tuneline.stages.prepare.checks.language import detect_language, find_unexpected_language
from tuneline.stages.prepare.checks.presidio import Presidio
from tuneline.stages.prepare.checks.problems import Findings, Problem
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.formats.reader import SourceRow, TextRepair, read_file, read_source
from tuneline.stages.prepare.rendering.renderer import Renderer, RowMeasure
from tuneline.stages.prepare.rendering.tool_preselector import Preselector
from tuneline.stages.prepare.rendering.tool_selection import add_distractors, add_nearest
from tuneline.stages.prepare.rendering.worker_pool import WorkerPool, update_catalogue
from tuneline.stages.prepare.row_sample import RowSample
from tuneline.stages.prepare.rows import Row
from tuneline.stages.prepare.source_summary import SourceSummary, source_name
from tuneline.stages.prepare.synthesis.grammar import generate_requests
from tuneline.stages.prepare.synthesis.requests import to_row

BATCH_ROWS = 256
BATCHES_AHEAD = 8
"""Batches that are measured in the worker pool while the next ones are read."""
NumberedRow = tuple[Row, int | None]
"""A row, and its number among the rows of files (None for a synthetic row)."""
BatchRow = tuple[int, NumberedRow]
"""The index of a source, and a row of it."""
LANGUAGES_SAMPLED = 500
"""Rows of a source whose language is counted. With `data.languages` the language of every row is checked."""
EXAMPLE_ROWS = 10


@dataclass(frozen=True, slots=True)
class ExaminedRow:
    """A row that passed all checks that exclude rows, with its measures."""

    row: Row
    source: int
    """Index of its source in `data.sources`."""
    tokens: int
    loss_tokens: int
    label: str
    """Style, or the first tool called; balance and the validation split are by label."""
    file_row: int | None
    """The row's number among the rows of files, which identifies duplicates; None for a synthetic row."""
    line: bytes | None = None
    """The row as JSON, if it was measured."""


class Examination:
    """Examines the rows of all sources. Iterate over `rows` to the end, then call `finish`."""

    def __init__(
        self,
        data: Data,
        catalogue: Catalogue | None,
        renderer: Renderer | None,
        *,
        synthesize: Callable[[Source, int], Iterator[Row]] | None = None,
        repair: TextRepair | None = None,
        preselector: Preselector | None = None,
    ) -> None:
        """Without `renderer` no tokens are counted.

        `synthesize` makes the rows of a `per_tool` source, `repair` is applied to every text that is read, and
        `preselector` selects the tools of each row.
        """
        self.data, self.catalogue, self.renderer = data, catalogue, renderer
        self.findings, self.toolbox = Findings(), Toolbox(catalogue)
        self.sources = [SourceSummary(source_name(source), source.weight) for source in data.sources]
        self.carriers: set[str] = set()
        self.labels, self.styles, self.called = Counter[str](), Counter[str](), Counter[str]()
        self.lengths, self.examples = array("I"), RowSample(EXAMPLE_ROWS, data.seed)
        self.rng = random.Random(data.seed)
        """Selects the tools that rows show; later shuffles the training rows."""
        self._synthesize, self._repair, self._preselector = synthesize, repair, preselector
        self._locations = RowLocations()
        self.duplicates = DuplicateRows(self._locations)
        self._presidio = Presidio() if data.personal == "presidio" else None
        if renderer:
            renderer.catalogue = None
            update_catalogue(renderer, self.toolbox.tools)

    def rows(self) -> Iterator[ExaminedRow]:
        """Yield the rows that can be trained on, in the order of the sources."""
        self._read_held_out()
        rows = ((index, row) for index, source in enumerate(self.data.sources) for row in self._read(index, source))
        if not self.renderer:
            while batch := list(islice(rows, BATCH_ROWS)):
                yield from self._accept(self._with_tools(batch), [(0, 0, "")] * len(batch))
            return
        with WorkerPool(self.renderer, self.toolbox.tools) as pool:
            pending: deque[Callable[[], Iterator[ExaminedRow]]] = deque()
            while batch := list(islice(rows, BATCH_ROWS)):
                if len(pending) == BATCHES_AHEAD:
                    yield from pending.popleft()()
                pending.append(self._submit(batch, pool))
            for examined in pending:
                yield from examined()

    def finish(self) -> Findings:
        """Return all findings, including those that need all rows."""
        for problem in self.duplicates.find_near():
            self.findings.add(problem)
        for problem in self._check_counts():
            self.findings.add(problem)
        return self.findings

    def _check_counts(self) -> Iterator[Problem]:
        yield from check_balance(self.labels, "tool")
        yield from check_balance(self.styles, "style")
        yield from check_style_sizes(self.styles)
        for language in sorted(self._presidio.without_names) if self._presidio else ():
            text = f"no spaCy model for {language!r} is installed: names of people are not looked for in it"
            yield Problem("names_not_found", "", 0, text)
        yield from check_source_sizes((source.name, source.rows) for source in self.sources)

    def _read(self, index: int, source: Source) -> Iterator[NumberedRow]:
        if source.path:
            yield from self._read_files(index, source)
        elif source.grammar:
            rng = random.Random(f"{self.data.seed} {index}")
            for request in generate_requests(source, rng):
                if self.catalogue is None or request.tool not in self.catalogue.tools:
                    raise BadData(
                        f"{source.grammar}: handlers.{request.tool}: not in the catalogue ({self.data.tools})"
                    )
                self.carriers.add(request.carrier)
                yield to_row(request, self.data.system, source.grammar.name), None
        else:
            assert self._synthesize
            for row in self._synthesize(source, index):
                yield row, None

    def _read_files(self, index: int, source: Source) -> Iterator[NumberedRow]:
        formats = self.sources[index].files
        results = read_source(
            source,
            self.toolbox,
            keep_thinking=self.data.keep_thinking,
            on_format=lambda file, form: formats.__setitem__(str(file), form),
            repair=self._repair,
        )
        for result in results:
            if isinstance(result, Problem):
                self.sources[index].problems += 1
                self.findings.add(result)
                continue
            number = self._locations.add(result.file, result.line)
            if self._presidio:
                for kind, match in self._presidio.first_of_each_kind(result.text).items():
                    self._report(match.severity, result.file, result.line, f"the text holds {kind}: {match.preview}")
            if duplicate := self.duplicates.add(number, result.text):
                self.findings.add(duplicate)
                if duplicate.kind == "in_test" or self.data.duplicates == "drop":
                    continue
            self._check_language(index, result)
            yield self._with_system(result.row), number

    def _with_system(self, row: Row) -> Row:
        if not self.data.system or not row.messages or row.messages[0].role == "system":
            return row
        system = {"role": "system", "content": self.data.system}
        return Row.model_validate(row.model_dump(exclude_none=True) | {"messages": [system, *row.chat()]})

    def _with_tools(self, batch: list[BatchRow]) -> list[BatchRow]:
        return [(index, (self._select_tools(row), number)) for index, (row, number) in batch]

    def _select_tools(self, row: Row) -> Row:
        if self._preselector and row.messages and not row.style:
            return add_nearest(row, self._preselector, self.data.nearest, self.toolbox.tools)
        if not self.catalogue or self.data.catalogue != "shown" or row.tools or not row.messages or row.style:
            return row
        return add_distractors(row, self.catalogue, self.data.distractors, self.data.whole_catalogue, self.rng)

    def _submit(self, batch: list[BatchRow], pool: WorkerPool) -> Callable[[], Iterator[ExaminedRow]]:
        """Start to measure a batch; return a function that waits for the measures and yields the accepted rows."""
        rows = self._with_tools(batch)
        lines = [row.model_dump_json(exclude_none=True).encode() for _, (row, _) in rows]
        measures = pool.measure(lines)
        return lambda: self._accept(rows, measures(), lines)

    def _accept(
        self, batch: list[BatchRow], measures: list[RowMeasure], lines: Sequence[bytes] = ()
    ) -> Iterator[ExaminedRow]:
        """Yield and count the rows of a batch that have tokens in the loss and fit; report the others."""
        for (index, (row, number)), (tokens, loss_tokens, refusal), line in zip_longest(batch, measures, lines):
            if refusal or tokens > self.data.max_tokens or (self.renderer and not loss_tokens):
                file, line_number = (self.sources[index].name, 0) if number is None else self._locations[number]
                if refusal:
                    self._report("not_rendered", file, line_number, f"the chat template refuses it: {refusal}")
                elif not loss_tokens:
                    self._report("nothing_learned", file, line_number, "no token is learned")
                else:
                    text = f"{tokens} tokens, data.max_tokens is {self.data.max_tokens}"
                    self._report("too_long", file, line_number, text)
            else:
                label = self._count(row, index, tokens, loss_tokens)
                yield ExaminedRow(row, index, tokens, loss_tokens, label, number, line)

    def _count(self, row: Row, index: int, tokens: int, loss_tokens: int) -> str:
        """Count an accepted row and return its label."""
        source = self.sources[index]
        source.rows, source.tokens = source.rows + 1, source.tokens + tokens
        source.loss_tokens += loss_tokens
        self.lengths.append(tokens)
        called = row.called
        self.called.update(set(called))
        tool = called[0] if called else ""
        if row.style:
            self.styles[row.style] += 1
        if tool:
            self.labels[tool] += 1
        self.examples.add(row)
        return row.style or tool

    def _read_held_out(self) -> None:
        for path in self.data.held_out:
            for result in read_file(resolve(path), self.toolbox):
                if isinstance(result, Problem):
                    self.findings.add(result)
                else:
                    self.duplicates.add_held_out(result.text)

    def _check_language(self, index: int, result: SourceRow) -> None:
        languages = self.sources[index].languages
        if not self.data.languages and languages.total() >= LANGUAGES_SAMPLED:
            return
        answers = [m.content for m in result.row.messages if m.role == "assistant" and m.content]
        text = "\n".join(answers) or result.text
        if languages.total() < LANGUAGES_SAMPLED:
            languages[detect_language(text) or "unsure"] += 1
        if self.data.languages and (language := find_unexpected_language(text, self.data.languages)):
            expected = ", ".join(self.data.languages)
            self._report("wrong_language", result.file, result.line, f"in {language!r}, data.languages is {expected}")

    def _report(self, kind: str, file: str, line: int, text: str) -> None:
        self.findings.add(Problem(kind, file, line, text))
