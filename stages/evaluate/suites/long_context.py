"""Long texts with one fact hidden in them: sentences that say nothing of it, at every length and depth asked for."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tuneline.configs.evaluation import Suite
from tuneline.stages.evaluate.suites.run_context import Known
from tuneline.stages.evaluate.suites.suite_requests import filler

if TYPE_CHECKING:
    from tuneline.stages.evaluate.suites.items import Item

ROOM = 200
"""Tokens kept for the system message, the question and what the template puts around them, beside the answer."""


def hidden(suite: Suite, asked: Sequence[list["Item"]], known: Known) -> Iterator[list["Item"]]:
    """Every fact at every length that fits the context, and every depth; `about` says where it is."""
    for length in suite.lengths:
        if length + suite.max_tokens > known.context:
            continue
        for depth in suite.depths:
            for (item,) in asked:
                rng = random.Random(f"{suite.seed} {length} {depth} {item.text}")
                text = _text(suite, item.context, length - ROOM, depth, known, rng)
                yield [replace(item, context=text, about={"length": length, "depth": depth})]


def _text(suite: Suite, fact: str, tokens: int, depth: float, known: Known, rng: random.Random) -> str:
    left, sentences = tokens - known.tokens(fact), list[str]()
    for sentence in filler(suite.grammars[0] if suite.grammars else None, rng):
        left -= known.tokens(sentence + " ")
        if left < 0:
            break
        sentences.append(sentence)
    sentences.insert(round(depth * len(sentences)), fact)
    return " ".join(sentences)
