"""Measures how much of a test suite's phrasing is in the training data.

A carrier is a request without its values, opener and closer; values are written as `_`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

NGRAM_WORDS = 5
CARRIERS = "carriers.txt"
"""In `prepare/`: the carriers of all requests from training grammars, one a line."""


def write_carriers(prepared: Path, carriers: Iterable[str]) -> None:
    """Write the training carriers, from which the overlap with any suite can be measured later."""
    with (prepared / CARRIERS).open("w", encoding="utf-8") as file:
        file.writelines(carrier.replace("\n", " ") + "\n" for carrier in sorted(carriers))


def read_carriers(prepared: Path) -> list[str]:
    """Return the training carriers of the run prepared in this directory."""
    with (prepared / CARRIERS).open(encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file]


def count_overlap(training: Iterable[str], test: Iterable[str]) -> dict[str, Any]:
    """Return how many test carriers, and how many of their five-word sequences, are also in the training carriers."""
    training_carriers, test_carriers = set(training), set(test)
    training_ngrams, test_ngrams = _ngrams(training_carriers), _ngrams(test_carriers)
    return {
        "carriers": len(test_carriers),
        "shared_carriers": len(test_carriers & training_carriers),
        "fivegrams": len(test_ngrams),
        "shared_fivegrams": len(test_ngrams & training_ngrams),
    }


def count_seen_in_training(prepared: Path, suites: Mapping[str, Iterable[tuple[str, str]]]) -> dict[str, int]:
    """Return for each suite how many of its (text, carrier) are in the training data.

    An item is if its text is a user's turn, or its carrier a training carrier. Case, punctuation and spaces are
    ignored. A carrier without a word matches nothing.
    """
    carriers = {_normalize(carrier) for carrier in read_carriers(prepared)} - {""}
    items = {
        name: [(_normalize(text), _normalize(carrier)) for text, carrier in pairs] for name, pairs in suites.items()
    }
    texts, training_texts = {text for pairs in items.values() for text, _ in pairs}, set[str]()
    with (prepared / "train.jsonl").open("rb") as rows:
        for row in rows:
            turns = json.loads(row).get("messages") or ()
            training_texts |= texts.intersection(_normalize(turn["content"]) for turn in turns if _is_user_text(turn))
    return {
        name: sum(text in training_texts or carrier in carriers for text, carrier in pairs)
        for name, pairs in items.items()
    }


def _is_user_text(turn: dict[str, Any]) -> bool:
    return turn["role"] == "user" and isinstance(turn.get("content"), str)


def _normalize(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _ngrams(carriers: set[str]) -> set[tuple[str, ...]]:
    split = [re.findall(r"[\w']+", carrier) for carrier in carriers]
    return {tuple(words[i : i + NGRAM_WORDS]) for words in split for i in range(len(words) - NGRAM_WORDS + 1)}
