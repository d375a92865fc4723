"""How much of a test's phrasing was seen in training: measured, not asserted."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

WORDS = 5
CARRIERS = "carriers.txt"
"""In `prepare/`: what the requests of training grammars look like with their values taken out, one a line."""


def write_carriers(prepared: Path, carriers: Iterable[str]) -> None:
    """Writes the training carriers, from which the overlap with any suite can be told later."""
    with (prepared / CARRIERS).open("w", encoding="utf-8") as file:
        file.writelines(carrier.replace("\n", " ") + "\n" for carrier in sorted(carriers))


def read_carriers(prepared: Path) -> list[str]:
    """The carriers of what the run in `prepared` was trained on."""
    with (prepared / CARRIERS).open(encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file]


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
