"""Several recipes' plans side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tuneline.cli.views.plan_training import format_gpus
from tuneline.cli.views.text_grid import format_grid
from tuneline.cli.views.units import format_range, format_usd

if TYPE_CHECKING:
    from tuneline.stages.plan import Plan
    from tuneline.stages.plan.training import TrainingOption

CONTROL = {
    "gguf": "a file you keep, on any machine",
    "adapter": "you own the adapter; the base is shared",
    "merged": "you own weights, engine and data",
}
"""What you control, by serving form."""
GIVES_UP = {
    "gguf": "throughput with many users, a little quality",
    "adapter": "needs a GPU that stays up, or a host that serves adapters",
    "merged": "several GPUs to pay for and to maintain",
}
"""What you give up, by serving form."""


def format_plan_comparison(plans: Sequence["Plan"]) -> str:
    """Return a column for each plan: hardware, cost, speed, what you control and what you give up."""
    columns = list(map(_to_column, plans))
    rows = [[key, *(column[key] for column in columns)] for key in columns[0]]
    return format_grid(["", *(plan.recipe for plan in plans)], rows, 34)


def _to_column(plan: "Plan") -> dict[str, str]:
    way, serving = _select_way(plan), plan.serving
    return {
        "base": plan.base.rpartition("/")[2],
        "train on": f"{format_gpus(way)}, {way.how}" if way else "no known hardware",
        "hours": format_range(way.hours) if way and way.hours else "unknown",
        "USD": format_range(way.costs[0].usd) + f" {way.costs[0].provider}" if way and way.costs else "unknown",
        "serve as": serving.form,
        "serve on": serving.hardware or "no known hardware",
        "USD per month": format_usd(serving.usd_per_month),
        "tokens/s": format_range(serving.tokens_per_second) if serving.tokens_per_second else "unknown",
        "control": CONTROL[serving.form],
        "gives up": GIVES_UP[serving.form],
    }


def _select_way(plan: "Plan") -> "TrainingOption | None":
    """Return the way the recipe asks for, or the cheapest one if the recipe's own does not hold the training."""
    ways = plan.training.ways
    return next((way for way in ways if way.asked), ways[0] if ways else None)
