"""The confusion matrix: which tool was called where another was expected."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuneline.stages.evaluate.answers import expected_label
from tuneline.stages.report.evaluation_record import AnswersBySuite
from tuneline.stages.report.run_record import Row

ROWS_SHOWN = 24
"""Tools in the matrix, those with most errors."""
COLUMNS_SHOWN = 24
EXTRA_COLUMNS = 4
"""Columns of tools that have no row of their own, at least, if there are so many."""
OTHER = "others"


@dataclass(frozen=True)
class Cell:
    """How often one tool was called where another was expected."""

    count: int
    share: float
    """Share of the requests that expect the tool of the row."""
    right: bool


def count_confusions(answers: AnswersBySuite) -> Row | None:
    """Return expected tools (rows) against called tools (columns) over all suites, or None without answers.

    `rows` holds (tool, requests, right answers, cells); the last column counts everything that has no column.
    """
    flat_answers = [answer for suite_answers in answers.values() for answer in suite_answers]
    requests = Counter(map(expected_label, flat_answers))
    right = Counter(expected_label(answer) for answer in flat_answers if answer.name_correct)
    confused = Counter((expected_label(a), a.got.partition(":")[0]) for a in flat_answers if not a.name_correct)
    if not requests:
        return None
    wrong = {name: requests[name] - right[name] for name in requests}
    shown = sorted(sorted(requests, key=lambda name: (-wrong[name], name))[:ROWS_SHOWN])
    columns = [*shown, *_select_extra_columns(confused, shown)]
    cells = {name: _fill_row(name, columns, confused, requests[name], right[name]) for name in shown}
    return {
        "columns": [*columns, OTHER],
        "rows": [(name, requests[name], right[name], cells[name]) for name in shown],
        "left_out": len(requests) - len(shown),
        "left_out_wrong": sum(wrong[name] for name in requests if name not in shown),
        "n": sum(requests.values()),
    }


def _select_extra_columns(confused: Mapping[tuple[str, str], int], shown: Sequence[str]) -> list[str]:
    """Return the most frequent wrong calls that have no row of their own."""
    called: Counter[str] = Counter()
    for (expected, got), count in confused.items():
        if expected in shown and got not in shown:
            called[got] += count
    return [got for got, _ in called.most_common(max(EXTRA_COLUMNS, COLUMNS_SHOWN - len(shown)))]


def _fill_row(
    name: str, columns: Sequence[str], confused: Mapping[tuple[str, str], int], requests: int, right: int
) -> list[Cell]:
    counts = [right if got == name else confused.get((name, got), 0) for got in columns]
    cells = [Cell(count, count / requests, got == name) for count, got in zip(counts, columns, strict=True)]
    rest = requests - sum(counts)
    return [*cells, Cell(rest, rest / requests, False)]
