"""How much of a test's phrasing was seen in training: measured, not asserted."""

import json
import re
from collections.abc import Iterable, Mapping
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


def seen(prepared: Path, asked: Mapping[str, Iterable[tuple[str, str]]]) -> dict[str, int]:
    """How many (text, carrier) of each suite stand in training: the text as a user's turn, or the carrier.

    Case, punctuation and spaces are not told apart. A carrier without a word is anything, and counts for nothing.
    """
    carriers = {_plain(carrier) for carrier in read_carriers(prepared)} - {""}
    suites = {name: [(_plain(text), _plain(carrier)) for text, carrier in pairs] for name, pairs in asked.items()}
    texts, known = {text for pairs in suites.values() for text, _ in pairs}, set[str]()
    with (prepared / "train.jsonl").open("rb") as rows:
        for row in rows:
            turns = json.loads(row).get("messages") or ()
            known |= texts.intersection(_plain(turn["content"]) for turn in turns if _of_user(turn))
    return {
        name: sum(text in known or carrier in carriers for text, carrier in pairs) for name, pairs in suites.items()
    }


def _of_user(turn: dict[str, Any]) -> bool:
    return turn["role"] == "user" and isinstance(turn.get("content"), str)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _grams(carriers: set[str]) -> set[tuple[str, ...]]:
    words = [re.findall(r"[\w']+", carrier) for carrier in carriers]
    return {tuple(w[i : i + WORDS]) for w in words for i in range(len(w) - WORDS + 1)}
