"""What differs between two runs, as a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from tuneline.cli.views.tables import make_table

if TYPE_CHECKING:
    from tuneline.stages.runs.differences import Difference


def render_differences(a: str, b: str, differences: "Sequence[Difference]") -> Table:
    """Return a table with a row for each difference, by section."""
    table = make_table("", a, b, padding=(0, 2, 0, 0))
    section = ""
    for difference in differences:
        if difference.section != section:
            section = difference.section
            table.add_row(Text(section, style="bold"))
        table.add_row(f"  {difference.name}", _format(difference.a), _format(difference.b))
    return table


def _format(value: Any) -> str:
    """Return a value in short; a share has its interval and the number of items."""
    match value:
        case None:
            return "–"
        case {"share": share, "low": low, "high": high, "n": n}:
            interval = f" ({100 * low:.1f}–{100 * high:.1f})" if low is not None and high is not None else ""
            return f"{100 * share:.1f} %{interval} of {n}"
        case bool():
            return str(value)
        case float():
            return f"{value:.4g}"
    return str(value)
