"""What can be wrong with an answer in words. A new scorer is one function here, in `CHECKS`, and a key in an item."""

import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from tuneline.stages.evaluate.scoring.facts import fault_of, words

if TYPE_CHECKING:
    from tuneline.stages.evaluate.clients.asking import Reply
    from tuneline.stages.evaluate.suites.items import Item
    from tuneline.stages.evaluate.suites.run_context import Known

CUT_OFF, REPEATS, NO_LANGUAGE = "cut off", "repeats itself", "too short to tell its language"
REPEATED_WORDS, REPEATED_TIMES = 6, 3
"""So many words in a row, so often, are a loop: nobody says them by chance."""
LOOP = re.compile(r"(.{1,40}?)\1{7,}", re.S)
"""Fewer words than that, or none, again and again."""

Check = Callable[["Item", "Reply", "Known"], str | None]
"""What is wrong with a reply to an item, or None; one that the item does not ask for says None."""


def facts(item: "Item", reply: "Reply", known: "Known") -> str | None:
    """Words it must and must not have, and the price; an answer says something of its own in any case."""
    return fault_of(item.text, reply.text, item.says, item.never, item.price)


def language(item: "Item", reply: "Reply", known: "Known") -> str | None:
    """The language asked for, from its first sentence to its last."""
    from tuneline.stages.prepare.checks.language import language_of, other_than

    if not item.in_language or not item.language:
        return None
    told = language_of(reply.text)
    if told is None:
        return NO_LANGUAGE
    if told != item.language:
        return f"in another language: {told}"
    others = (other_than(sentence, {item.language}) for sentence in re.split(r"(?<=[.!?])\s+|\n+", reply.text))
    found = next(filter(None, others), None)
    return f"mixed languages: {found}" if found else None


def whole(item: "Item", reply: "Reply", known: "Known") -> str | None:
    """Neither cut off nor in a loop."""
    if not (item.in_language or item.style):
        return None
    said = words(reply.text)
    runs = Counter(tuple(said[i : i + REPEATED_WORDS]) for i in range(len(said) - REPEATED_WORDS + 1))
    if max(runs.values(), default=0) >= REPEATED_TIMES or LOOP.search(reply.text):
        return REPEATS
    return CUT_OFF if reply.cut and item.in_language else None


def style(item: "Item", reply: "Reply", known: "Known") -> str | None:
    """The style asked for, by a classifier that learned it from documents the model has not seen."""
    if not item.style:
        return None
    told = known.styles.told(reply.text)
    return None if told == item.style else f"in another style: {told}"


CHECKS: tuple[Check, ...] = (facts, language, whole, style)


def fault(item: "Item", reply: "Reply", known: "Known") -> str | None:
    """The first thing that is wrong."""
    return next((found for check in CHECKS if (found := check(item, reply, known))), None)
