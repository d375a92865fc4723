"""What the scheduled evaluation found, as a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Column
from rich.text import Text

from tuneline.cli.views.tables import make_table
from tuneline.core.formatting import format_percent

if TYPE_CHECKING:
    from tuneline.endpoints.score_history import Score


def render_scores(scores: "Sequence[Score]") -> RenderableType:
    """Return a row for each evaluation and suite, a regression marked, and the reasons below."""
    columns: list[Column | str] = ["name", Column("date", no_wrap=True), "run", "suite", "n", "right tool", "exact", ""]
    table = make_table(*columns)
    for score in scores:
        mark = (
            Text("failed", style="red") if score.error else Text("worse", style="red") if score.is_worse else Text("")
        )
        run = f"{score.run} (v{score.version})" if score.version else score.run or "–"
        cells = [score.name, score.at[:10], run, score.suite or "–", str(score.n or "–")]
        table.add_row(*cells, _format_share(score), _format(score.exact), mark)
    reasons = [f"{score.at[:10]} {score.name}: {text}" for score in scores for text in _explain(score)]
    return Group(table, *map(Text, reasons))


def _explain(score: "Score") -> Sequence[str]:
    return [f"could not be evaluated: {score.error}"] if score.error else score.worse


def _format_share(score: "Score") -> str:
    if score.low is None or score.high is None:
        return _format(score.right_tool)
    return f"{_format(score.right_tool)} ({100 * score.low:.1f}–{100 * score.high:.1f})"


def _format(share: float | None) -> str:
    return "–" if share is None else format_percent(share)
