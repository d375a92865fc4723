"""A suite's items: requests with known answers, made from its grammar, the same for the same seed."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.recipe import Suite, find
from stages.errors import BadData
from stages.prepare.grammar import Grammar, Request, load_grammar

MOST_TRIES = 2_000
"""Draws for one new text before the grammar counts as exhausted."""


@dataclass(frozen=True)
class Item:
    """One request and the call that answers it; `carrier` is its sentence frame, values as `_`."""

    id: str
    text: str
    tool: str
    arguments: dict[str, Any]
    carrier: str


def make_items(suite: Suite) -> tuple[Item, ...]:
    """`suite.rows` items with different texts, the handlers in turn so that all are asked equally often.

    Raises:
        BadData: the grammar cannot make so many different texts.
    """
    path = find(suite.grammar)
    grammar, rng = load_grammar(path), random.Random(suite.seed)
    tools, seen, items = list(grammar.handlers), set[str](), list[Item]()
    for number in range(suite.rows):
        tool = tools[number % len(tools)]
        request = _new_request(grammar, tool, rng, seen)
        if request is None:
            raise BadData(
                f"{path}: handlers.{tool}: only {len(items)} different texts for suite {suite.name} (rows: {suite.rows}); "
                "lower rows or write more patterns"
            )
        seen.add(request.text.casefold())
        items.append(Item(f"{suite.name}-{number:04d}", request.text, tool, request.arguments, _frame(request, grammar)))
    return tuple(items)


def _new_request(grammar: Grammar, tool: str, rng: random.Random, seen: set[str]) -> Request | None:
    for _ in range(MOST_TRIES):
        request = grammar.request(tool, rng)
        if request.text.casefold() not in seen:
            return request
    return None


def _frame(request: Request, grammar: Grammar) -> str:
    """The carrier without opener and closer: what items that stand or fall together have in common."""
    frame = request.carrier
    for opener in sorted(grammar.openers, key=len, reverse=True):
        if opener and frame.startswith(opener.lower() + " "):
            frame = frame.removeprefix(opener.lower() + " ")
            break
    for closer in sorted(grammar.closers, key=len, reverse=True):
        if closer and frame.endswith(closer.lower()):
            frame = frame.removesuffix(closer.lower())
            break
    return frame
