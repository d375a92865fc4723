"""How often the preselector's first k tools include all that a request needs."""

from collections.abc import Sequence
from typing import Any

from tuneline.configs.evaluation import Suite
from tuneline.stages.evaluate.statistics import interval
from tuneline.stages.evaluate.suites.item import Item, Suites
from tuneline.stages.evaluate.suites.run_context import RunContext
from tuneline.stages.prepare.rendering.tool_preselector import Preselector

RECALL_AT = (1, 2, 4, 8, 16, 24, 32)
"""Numbers of tools shown at which recall is reported."""

Row = dict[str, Any]


def recall_table(settings: Sequence[Suite], run_context: RunContext, suites: Suites, confidence: float) -> list[Row]:
    """Return recall at each of `RECALL_AT` for the suites whose requests are shown the preselector's choice."""
    names = [suite.name for suite in settings if run_context.shown_tools(suite.offered)]
    return [row for name in names for row in recall_rows(name, suites[name], run_context.preselector, confidence)]


def recall_rows(suite: str, items: Sequence[Item], preselector: Preselector, confidence: float) -> list[Row]:
    with_calls = [item for item in items if item.expected_calls]
    worst_ranks = []
    for item in with_calls:
        ranking = preselector.nearest(item.text)
        worst_ranks.append(max(ranking.index(call["name"]) for call in item.expected_calls))
    rows = []
    for k in (k for k in RECALL_AT if with_calls and k <= len(ranking)):
        included = [rank < k for rank in worst_ranks]
        low, high = interval(included, [item.phrasing for item in with_calls], confidence)
        recall = round(sum(included) / len(included), 6)
        rows.append(
            {"suite": suite, "k": k, "n": len(included), "recall": recall, "low": round(low, 6), "high": round(high, 6)}
        )
    return rows
