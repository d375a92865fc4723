"""Long texts that hide one fact among unrelated sentences, at every length and depth a suite names."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tuneline.configs.evaluation import Suite
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.suites.run_context import RunContext
from tuneline.stages.evaluate.suites.suite_requests import filler_sentences

RESERVED_TOKENS = 200
"""Kept for the system message, the question and the template around them, beside the answer."""


def hide_facts(suite: Suite, questions: Sequence[list[Item]], run_context: RunContext) -> Iterator[list[Item]]:
    """Yield each question at every length that fits the context and at every depth; `about` has both.

    Each question is a conversation of one item, whose `context` is the fact to hide.
    """
    for length in suite.lengths:
        if length + suite.max_tokens > run_context.context_tokens:
            continue
        for depth in suite.depths:
            for (item,) in questions:
                rng = random.Random(f"{suite.seed} {length} {depth} {item.text}")
                text = _long_text(suite, item.context, length - RESERVED_TOKENS, depth, run_context, rng)
                yield [replace(item, context=text, about={"length": length, "depth": depth})]


def _long_text(suite: Suite, fact: str, tokens: int, depth: float, run_context: RunContext, rng: random.Random) -> str:
    remaining, sentences = tokens - run_context.count_tokens(fact), list[str]()
    for sentence in filler_sentences(suite.grammars[0] if suite.grammars else None, rng):
        remaining -= run_context.count_tokens(sentence + " ")
        if remaining < 0:
            break
        sentences.append(sentence)
    sentences.insert(round(depth * len(sentences)), fact)
    return " ".join(sentences)
