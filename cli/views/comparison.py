"""Two models against each other, task by task."""

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tuneline.stages.evaluate.verdicts.comparison import Comparison

COLOURS = {"better": "green", "worse": "red"}


def render_comparison(comparison: "Comparison") -> Group:
    """Return a row for each task: shares of A and B, and their difference as numbers and drawn around 0.

    Below it is where and when A and B were measured.
    """
    a, b = comparison.measured
    lines = [f"A and B: {a}"] if a == b else [f"A: {a}", f"B: {b}"]
    return Group(_render_table(comparison), *(Text(line, style="dim") for line in lines))


def _render_table(comparison: "Comparison") -> Table:
    verdicts = comparison.verdicts
    tasks, percent = verdicts.tasks, f"{verdicts.confidence:.0%}"
    reach = max((max(abs(task.low), abs(task.high)) for task in tasks), default=1.0) or 1.0
    table = Table(title=f"B = {verdicts.b} against A = {verdicts.a}")
    for column in ("task", "n", "A", "B", f"difference ({percent} interval)", f"±{100 * reach:.0f} points", "verdict"):
        table.add_column(column, overflow="fold")
    for task in tasks:
        difference = f"{100 * task.difference:+.1f} ({100 * task.low:+.1f} to {100 * task.high:+.1f})"
        drawing = _draw_interval(task.low / reach, task.difference / reach, task.high / reach)
        verdict = Text(task.summary, style=COLOURS.get(task.verdict, ""))
        table.add_row(task.task, str(task.n), f"{task.a:.1%}", f"{task.b:.1%}", difference, drawing, verdict)
    return table


def _draw_interval(low: float, value: float, high: float) -> str:
    """Return an interval between -1 and 1 in characters; `|` is 0, `●` the value."""
    half = 10
    start, middle, end = (round(half * (1 + x)) for x in (low, value, high))
    cells = ["·"] * (2 * half + 1)
    cells[start : end + 1] = ["─"] * (end - start + 1)
    cells[half] = "|"
    cells[middle] = "●"
    return "".join(cells)
