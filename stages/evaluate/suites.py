"""A suite's items: requests with known answers, the same for the same seed."""

from dataclasses import dataclass
from typing import Any

from configs.recipe import Suite
from stages.prepare import suite_requests


@dataclass(frozen=True)
class Item:
    """One request and the call that answers it; `carrier` is its sentence frame: no values, no opener, no closer."""

    id: str
    text: str
    tool: str | None
    """None where no tool fits."""
    arguments: dict[str, Any]
    carrier: str


def make_items(suite: Suite) -> tuple[Item, ...]:
    """`suite.rows` items with different texts, the handlers in turn so that all are asked equally often."""
    return tuple(
        Item(f"{suite.name}-{number:04d}", r.text, r.tool, dict(r.arguments), r.carrier)
        for number, r in enumerate(suite_requests(suite.grammar, suite.rows, suite.seed))
    )
