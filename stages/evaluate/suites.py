"""A suite's items: requests with known answers, the same for the same seed; `prepare` measured the overlap of these."""

from dataclasses import dataclass
from typing import Any

from configs.recipe import Suite, find
from stages.prepare import suite_requests
from stages.prepare.grammar import Grammar, load_grammar


@dataclass(frozen=True)
class Item:
    """One request and the call that answers it; `carrier` is its sentence frame: no values, no opener, no closer."""

    id: str
    text: str
    tool: str
    arguments: dict[str, Any]
    carrier: str


def make_items(suite: Suite) -> tuple[Item, ...]:
    """`suite.rows` items with different texts, the handlers in turn so that all are asked equally often."""
    grammar = load_grammar(find(suite.grammar))
    return tuple(
        Item(f"{suite.name}-{number:04d}", r.text, r.tool, dict(r.arguments), frame(r.carrier, grammar))
        for number, r in enumerate(suite_requests(suite.grammar, suite.rows, suite.seed))
    )


def frame(carrier: str, grammar: Grammar) -> str:
    """A carrier without opener and closer: what items that are right or wrong together have in common."""
    for opener in sorted(filter(None, grammar.openers), key=len, reverse=True):
        if carrier.startswith(f"{opener.lower()} "):
            carrier = carrier[len(opener) + 1 :]
            break
    for closer in sorted(filter(None, grammar.closers), key=len, reverse=True):
        if carrier.endswith(closer.lower()):
            return carrier[: -len(closer)]
    return carrier
