"""How much of a test's phrasing was seen in training: measured, not asserted."""

import re
from collections.abc import Iterable
from typing import Any

WORDS = 5


def overlap(training: Iterable[str], test: Iterable[str]) -> dict[str, Any]:
    """Shared carriers (requests with values as `_`) and shared five-word sequences of carriers, as counts."""
    seen, asked = set(training), set(test)
    seen_grams, asked_grams = _grams(seen), _grams(asked)
    return {
        "carriers": len(asked),
        "shared_carriers": len(asked & seen),
        "fivegrams": len(asked_grams),
        "shared_fivegrams": len(asked_grams & seen_grams),
    }


def _grams(carriers: set[str]) -> set[tuple[str, ...]]:
    words = [re.findall(r"[\w']+", carrier) for carrier in carriers]
    return {tuple(w[i : i + WORDS]) for w in words for i in range(len(w) - WORDS + 1)}
