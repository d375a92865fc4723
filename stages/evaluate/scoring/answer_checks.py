"""Checks of an answer in text. A new check is one function here, in `CHECKS`, and a key of an item."""

import re
from collections import Counter
from collections.abc import Callable

from tuneline.stages.evaluate.answers import Reply
from tuneline.stages.evaluate.scoring.facts import fact_fault, words
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.suites.run_context import RunContext

CUT_OFF, REPEATS, NO_LANGUAGE = "cut off", "repeats itself", "too short to tell its language"
UNLIKE_LOG = "not the logged answer"
REPEATED_WORDS, REPEATED_TIMES = 6, 3
"""A sequence of this many words that occurs this often is a loop: nobody writes it by chance."""
LOOP = re.compile(r"(.{1,40}?)\1{7,}", re.S)
"""A shorter text repeated without a gap."""

Check = Callable[[Item, Reply, RunContext], str | None]
"""Returns what is wrong with a reply, or None if nothing is or the item does not ask for it."""


def check_facts(item: Item, reply: Reply, run_context: RunContext) -> str | None:
    """Require the facts and the price, forbid other words; in any case the text must say something of its own."""
    if item.repeats_log:
        return None  # a label to choose is often in the request
    return fact_fault(item.text, reply.text, item.says, item.never, item.price)


def check_language(item: Item, reply: Reply, run_context: RunContext) -> str | None:
    """Require the language asked for, in every sentence."""
    from tuneline.stages.prepare.checks.language import detect_language, find_unexpected_language

    if not item.in_language or not item.language:
        return None
    detected = detect_language(reply.text)
    if detected is None:
        return NO_LANGUAGE
    if detected != item.language:
        return f"in another language: {detected}"
    others = (
        find_unexpected_language(sentence, {item.language}) for sentence in re.split(r"(?<=[.!?])\s+|\n+", reply.text)
    )
    other = next(filter(None, others), None)
    return f"mixed languages: {other}" if other else None


def check_completeness(item: Item, reply: Reply, run_context: RunContext) -> str | None:
    """Forbid loops, and where a language is asked for also an answer that was cut off."""
    if not (item.in_language or item.style):
        return None
    text_words = words(reply.text)
    starts = range(len(text_words) - REPEATED_WORDS + 1)
    sequences = Counter(tuple(text_words[i : i + REPEATED_WORDS]) for i in starts)
    if max(sequences.values(), default=0) >= REPEATED_TIMES or LOOP.search(reply.text):
        return REPEATS
    return CUT_OFF if reply.cut and item.in_language else None


def check_style(item: Item, reply: Reply, run_context: RunContext) -> str | None:
    """Require the style asked for, by a classifier trained on documents the model has not seen."""
    if not item.style:
        return None
    predicted = run_context.styles.predict(reply.text)
    return None if predicted == item.style else f"in another style: {predicted}"


def check_logged_answer(item: Item, reply: Reply, run_context: RunContext) -> str | None:
    """Require the words of the logged answer, or with `min_chrf` a similarity to it (chrF, sacrebleu's defaults)."""
    if not item.repeats_log or not item.reference or _same_words(reply.text, item.reference):
        return None
    if item.min_chrf is None:
        return UNLIKE_LOG
    from sacrebleu import sentence_chrf

    score = sentence_chrf(reply.text, [item.reference]).score
    return None if score >= item.min_chrf else f"{UNLIKE_LOG}: chrF {score:.0f}"


def _same_words(text: str, other: str) -> bool:
    """Return whether two texts have the same words; those without a word, such as an emoji, must be equal."""
    return words(text) == words(other) if words(other) else text.strip() == other.strip()


CHECKS: tuple[Check, ...] = (check_logged_answer, check_facts, check_language, check_completeness, check_style)


def find_fault(item: Item, reply: Reply, run_context: RunContext) -> str | None:
    """Return what the first failing check says, or None if all pass."""
    return next((fault for check in CHECKS if (fault := check(item, reply, run_context))), None)
