"""What was spent, as a table."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from tuneline.cli.views.tables import make_table

if TYPE_CHECKING:
    from tuneline.core.ledger import Spent


def render_costs(lines: "Sequence[Spent]", by: str) -> RenderableType:
    """Return the hours and USD of `lines` summed by `day`, by `run` or endpoint, or a row for each `line`."""
    columns: dict[str, tuple[tuple[str, ...], Callable[[Spent], tuple[str, ...]]]] = {
        "day": (("day",), lambda line: (str(line.day),)),
        "run": (("run or endpoint", "where"), lambda line: (line.name, line.where)),
        "line": (
            ("day", "run or endpoint", "stage", "where"),
            lambda line: (str(line.day), line.name, line.stage, line.where),
        ),
    }
    names, key = columns[by]
    sums: dict[tuple[str, ...], tuple[float, float, dict[str, None]]] = {}
    for line in lines:
        hours, usd, prices = sums.get(key(line), (0.0, 0.0, {}))
        sums[key(line)] = (hours + line.hours, usd + line.usd, prices | {line.price: None})
    table = make_table(*names, "hours", "USD", "price by")
    for group, (hours, usd, prices) in sums.items():
        table.add_row(*group, f"{hours:.3f}", f"{usd:.4f}", ", ".join(prices))
    hours, usd = sum(line.hours for line in lines), sum(line.usd for line in lines)
    return Group(table, Text(f"total {hours:.3f} h, {usd:.4f} USD"))
