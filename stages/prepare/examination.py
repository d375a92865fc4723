"""Reads, checks, renders and measures the rows of all sources in one streaming pass.

Of each row only a few numbers are held in memory. Near-duplicates and imbalance, which need all rows, are found from
these numbers at the end.
"""

import hashlib
import json
import random
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

from tuneline.configs.catalogue import Catalogue
from tuneline.configs.data import Data, Source
from tuneline.core.errors import BadData
from tuneline.core.paths import resolve
from tuneline.stages.prepare.checks.balance import check_balance, check_source_sizes, check_style_sizes
from tuneline.stages.prepare.checks.duplicate_rows import DuplicateRows, RowLocations
from tuneline.stages.prepare.checks.language import detect_language, find_unexpected_language
from tuneline.stages.prepare.checks.personal_data import quote_match
from tuneline.stages.prepare.checks.presidio import Presidio
from tuneline.stages.prepare.checks.problems import KINDS, Findings, Problem, RowError
from tuneline.stages.prepare.checks.test_questions import AskedInTraining, TestQuestion
from tuneline.stages.prepare.checks.text_checks import check_tools
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.formats.reader import (
    SourceRow,
    TextRepair,
    list_test_files,
    read_file,
    read_source,
)
from tuneline.stages.prepare.rendering.assistant_turns import split_turns
from tuneline.stages.prepare.rendering.renderer import Renderer, RowMeasure
from tuneline.stages.prepare.rendering.tool_preselector import Preselector
from tuneline.stages.prepare.rendering.tool_selection import add_distractors, add_nearest
from tuneline.stages.prepare.rendering.worker_pool import WorkerPool, update_catalogue
from tuneline.stages.prepare.row_counts import RowCounts
from tuneline.stages.prepare.row_sample import RowSample
from tuneline.stages.prepare.rows import Message, Row
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
    """Index of its source in `data.sources`; the number of them for `data.validation`."""
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
        test_questions: Iterable[TestQuestion] = (),
    ) -> None:
        """Without `renderer` no tokens are counted.

        `synthesize` makes the rows of a `per_tool` source, `repair` is applied to every text that is read, and
        `preselector` selects the tools of each row. `test_questions` are reported where a row asks them.
        """
        self.data, self.catalogue, self.renderer = data, catalogue, renderer
        self.findings, self.toolbox = Findings(), Toolbox(catalogue)
        self.sources = [SourceSummary(source_name(source), source.weight) for source in data.sources]
        if data.validation:  # none of its rows is trained on
            self.sources.append(SourceSummary(f"{source_name(data.validation)} (validation)", 0.0))
        self.phrasings: set[str] = set()
        self.labels, self.styles, self.called = Counter[str](), Counter[str](), Counter[str]()
        self.lengths, self.examples = array("I"), RowSample(EXAMPLE_ROWS, data.seed)
        self._accepted = array("I")
        """Rows of files, by their numbers, that are accepted and not of a validation split."""
        self.rng = random.Random(data.seed)
        """Selects the tools that rows show; later shuffles the training rows."""
        self._synthesize, self._repair, self._preselector = synthesize, repair, preselector
        self.row_counts = RowCounts()
        self._locations = RowLocations()
        self.duplicates = DuplicateRows(self._locations)
        self._asked = AskedInTraining()
        for question in test_questions:
            self._asked.add(question)
        self._presidio = Presidio() if data.personal == "presidio" else None
        self._control_tokens = renderer.foreign_control_tokens() if renderer else ()
        for error in check_tools(catalogue.openai() if catalogue else (), self._control_tokens):
            raise BadData(f"{data.tools}: {error}, a control token: {KINDS['control_token'].remedy}")
        if renderer:
            renderer.catalogue = None
            update_catalogue(renderer, self.toolbox.tools)

    def rows(self) -> Iterator[ExaminedRow]:
        """Yield the rows that can be trained on, in the order of the sources."""
        self._read_held_out()
        rows = (row for index, source in self.data.numbered_sources for row in self._read(index, source))
        if not self.renderer:
            while batch := list(islice(rows, BATCH_ROWS)):
                yield from self._accept(self._with_tools(batch), [RowMeasure(0, 0)] * len(batch))
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
        for problem in (*self._asked.problems(), *self._check_counts()):
            self.findings.add(problem)
        return self.findings

    def check_sides(self) -> None:
        """Report it, once finished, if the rows leave nothing to validate with."""
        if self._leaves_a_side_empty():
            self._report(
                "empty_side",
                self.sources[0].name,
                0,
                "all rows are duplicates of one row, so none is left for validation",
            )

    def _leaves_a_side_empty(self) -> bool:
        """Return whether all rows repeat a single one, and none is stated to validate with."""
        if not self._accepted or len(self._accepted) < len(self.lengths):  # others are made, or validate
            return False
        duplicates = self.duplicates.duplicate_of
        return sum(number not in duplicates for number in self._accepted) < 2

    def _check_counts(self) -> Iterator[Problem]:
        yield from check_balance(self.labels, "tool")
        yield from check_balance(self.styles, "style")
        yield from check_style_sizes(self.styles)
        for language in sorted(self._presidio.without_names) if self._presidio else ():
            text = f"no spaCy model for {language!r} is installed: names of people are not detected in it"
            yield Problem("names_not_found", "", 0, text)
        yield from check_source_sizes((source.name, source.rows) for source in self.sources)

    def _read(self, index: int, source: Source) -> Iterator[BatchRow]:
        if source.path:
            yield from self._read_files(index, source)
        elif source.grammar:
            rng = random.Random(f"{self.data.seed} {index}")
            for request in generate_requests(source, rng):
                if self.catalogue is None or request.tool not in self.catalogue.tools:
                    raise BadData(
                        f"{source.grammar}: handlers.{request.tool}: not in the catalogue ({self.data.tools})"
                    )
                self.phrasings.add(request.phrasing)
                yield index, (to_row(request, self.data.system, source.grammar.name), None)
        else:
            assert self._synthesize
            for row in self._synthesize(source, index):
                yield index, (row, None)

    def _read_files(self, index: int, source: Source) -> Iterator[BatchRow]:
        formats = self.sources[index].files
        results = read_source(
            source,
            self.toolbox,
            keep_thinking=self.data.keep_thinking,
            on_format=lambda file, form: formats.__setitem__(str(file), form),
            repair=self._repair,
            control_tokens=self._control_tokens,
        )
        for result in results:
            if isinstance(result, Problem):
                self.sources[index].problems += 1
                self.row_counts.refuse(result)
                self.findings.add(result)
                continue
            number = self._locations.add(result.file, result.line)
            if self._presidio:
                for kind, match in self._presidio.first_of_each_kind(result.text).items():
                    self._report(
                        match.severity,
                        result.file,
                        result.line,
                        f"the text holds {kind}: {match.preview}",
                        quote_match(result.text, match),
                    )
            if duplicate := self.duplicates.add(number, result.text):
                self.findings.add(duplicate)
                if duplicate.kind == "in_test" or self.data.duplicates == "drop":
                    self.row_counts.skip()
                    continue
            self._check_language(index, result)
            yield self._side(index, result), (self._with_system(result.row), number)

    def _side(self, index: int, result: SourceRow) -> int:
        """Return the number of a row's source: that of validation rows, if its file is of a validation split."""
        if not result.validates:
            return index
        if len(self.sources) == len(self.data.sources):
            self.sources.append(SourceSummary("validation splits", 0.0))
        return len(self.data.sources)

    def _with_system(self, row: Row) -> Row:
        if not self.data.system or not row.messages or row.messages[0].role == "system":
            return row
        return row.model_copy(update={"messages": [Message(role="system", content=self.data.system), *row.messages]})

    def _with_tools(self, batch: list[BatchRow]) -> list[BatchRow]:
        self.row_counts.measure(len(batch))
        return [(index, (self._select_tools(row), number)) for index, (row, number) in batch]

    def _select_tools(self, row: Row) -> Row:
        if self._preselector and row.messages and not row.style:
            return add_nearest(row, self._preselector, self.data.nearest, self.toolbox.tools)
        if not self.catalogue or self.data.catalogue != "shown" or not row.messages or row.style:
            return row
        if "tools" in row.model_fields_set:  # its own, which may be none
            return row
        return add_distractors(row, self.catalogue, self.data.distractors, self.data.whole_catalogue, self.rng)

    def _submit(self, batch: list[BatchRow], pool: WorkerPool) -> Callable[[], Iterator[ExaminedRow]]:
        """Start to measure a batch; return a function that waits for the measures and yields the accepted rows."""
        rows = self._with_tools(batch)
        lines = [row.model_dump_json(exclude_none=True).encode() for _, (row, _) in rows]
        measures = pool.measure(lines)
        return lambda: self._accept(*_split_turns(rows, lines, measures(), pool))

    def _accept(
        self, batch: list[BatchRow], measures: list[RowMeasure], lines: Sequence[bytes] = ()
    ) -> Iterator[ExaminedRow]:
        """Yield and count the rows of a batch that have tokens in the loss and fit; report the others."""
        for (index, (row, number)), measure, line in zip_longest(batch, measures, lines):
            if problem := self._find_problem(measure):
                file, line_number = (self.sources[index].name, 0) if number is None else self._locations[number]
                self.findings.add(problem.at(file, line_number))
            if not problem or (KINDS[problem.kind].severity == "warning" and problem.kind != "too_long"):
                label = self._count(row, index, measure.tokens, measure.loss_tokens)
                if index < len(self.data.sources):
                    self._asked.look_in(row, self._describe_place(index, number))
                    if number is not None:
                        self._accepted.append(number)
                yield ExaminedRow(row, index, measure.tokens, measure.loss_tokens, label, number, line)

    def _find_problem(self, measure: RowMeasure) -> RowError | None:
        """Return what is wrong with a measured row, or None."""
        if measure.fault == "not_rendered":
            return RowError("not_rendered", f"the chat template refuses it: {measure.reason.text}")
        if self.renderer and not measure.loss_tokens and not measure.fault:
            return RowError("nothing_learned", "no token is in the loss")
        if measure.tokens > self.data.max_tokens:
            return RowError("too_long", f"{measure.tokens} tokens, data.max_tokens is {self.data.max_tokens}")
        return RowError(measure.fault, *measure.reason) if measure.fault else None

    def _describe_place(self, index: int, number: int | None) -> str:
        return self.sources[index].name if number is None else ":".join(map(str, self._locations[number]))

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
            self._hold_out(read_file(resolve(path), self.toolbox))
        for source in self.data.sources:
            for path in list_test_files(source) if source.path else ():
                self._hold_out(read_file(path, self.toolbox, source))

    def _hold_out(self, results: Iterator[SourceRow | Problem]) -> None:
        for result in results:
            if isinstance(result, SourceRow):
                self.duplicates.add_held_out(result.text)
                self._asked.add_chat(result.row, result.file, result.line)
            else:
                self.findings.add(result)

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

    def _report(self, kind: str, file: str, line: int, text: str, quote: str = "") -> None:
        self.findings.add(Problem(kind, file, line, text, quote=quote))


def _split_turns(
    rows: list[BatchRow], lines: Sequence[bytes], measures: list[RowMeasure], pool: WorkerPool
) -> tuple[list[BatchRow], list[RowMeasure], Sequence[bytes]]:
    """Return (rows, measures, lines), each row whose turns are not parts of one rendering replaced by a row a turn."""
    if all(measure.fault != "several_renderings" for measure in measures):
        return rows, measures, lines
    split: list[tuple[BatchRow, RowMeasure, bytes]] = []
    for (index, (row, number)), measure, line in zip(rows, measures, lines, strict=True):
        if measure.fault != "several_renderings":
            split.append(((index, (row, number)), measure, line))
            continue
        parts = _split_row(row)
        part_lines = [part.model_dump_json(exclude_none=True).encode() for part in parts]
        part_measures = pool.measure(part_lines)()
        for part, part_measure, part_line in zip(parts, part_measures, part_lines, strict=True):
            split.append(((index, (part, number)), part_measure, part_line))
    return [row for row, _, _ in split], [measure for _, measure, _ in split], [line for _, _, line in split]


def _split_row(row: Row) -> list[Row]:
    """Return a row for each of the assistant's turns in the loss; all of a conversation are one document."""
    requests = json.dumps([message.content for message in row.messages if message.role == "user"])
    document = row.document or "conversation " + hashlib.blake2b(requests.encode(errors="surrogatepass")).hexdigest()
    fixed = row.model_dump(exclude_none=True, exclude={"messages"}) | {"document": document}
    return [Row.model_validate(fixed | {"messages": messages}) for messages in split_turns(row.chat())]
