"""Measures how much of a test suite's phrasing is in the training data.

A phrasing is a request without its values, opener and closer; values are written as `_`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

NGRAM_WORDS = 5
PHRASINGS = "phrasings.txt"
"""In `prepare/`: the phrasings of all requests from training grammars, one a line."""


def write_phrasings(prepared: Path, phrasings: Iterable[str]) -> None:
    """Write the training phrasings, from which the overlap with any suite can be measured later."""
    with (prepared / PHRASINGS).open("w", encoding="utf-8") as file:
        file.writelines(phrasing.replace("\n", " ") + "\n" for phrasing in sorted(phrasings))


def read_phrasings(prepared: Path) -> list[str]:
    """Return the training phrasings of the run prepared in this directory."""
    with (prepared / PHRASINGS).open(encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file]


def count_overlap(training: Iterable[str], test: Iterable[str]) -> dict[str, Any]:
    """Return how many test phrasings, and how many of their five-word sequences, are also in the training phrasings."""
    training_phrasings, test_phrasings = set(training), set(test)
    training_ngrams, test_ngrams = _ngrams(training_phrasings), _ngrams(test_phrasings)
    return {
        "phrasings": len(test_phrasings),
        "shared_phrasings": len(test_phrasings & training_phrasings),
        "fivegrams": len(test_ngrams),
        "shared_fivegrams": len(test_ngrams & training_ngrams),
    }


def count_seen_in_training(prepared: Path, suites: Mapping[str, Iterable[tuple[str, str]]]) -> dict[str, int]:
    """Return for each suite how many of its (text, phrasing) are in the training data.

    An item is if its text is a user's turn, or its phrasing a training phrasing. Case, punctuation and spaces are
    ignored. A phrasing without a word matches nothing.
    """
    phrasings = {normalize_question(phrasing) for phrasing in read_phrasings(prepared)} - {""}
    items = {
        name: [(normalize_question(text), normalize_question(phrasing)) for text, phrasing in pairs]
        for name, pairs in suites.items()
    }
    texts, training_texts = {text for pairs in items.values() for text, _ in pairs}, set[str]()
    with (prepared / "train.jsonl").open("rb") as rows:
        for row in rows:
            turns = json.loads(row).get("messages") or ()
            training_texts |= texts.intersection(
                normalize_question(turn["content"]) for turn in turns if _is_user_text(turn)
            )
    return {
        name: sum(text in training_texts or phrasing in phrasings for text, phrasing in pairs)
        for name, pairs in items.items()
    }


def _is_user_text(turn: dict[str, Any]) -> bool:
    return turn["role"] == "user" and isinstance(turn.get("content"), str)


def normalize_question(text: str) -> str:
    """Return the words of a text in lower case, one space apart."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _ngrams(phrasings: set[str]) -> set[tuple[str, ...]]:
    split = [re.findall(r"[\w']+", phrasing) for phrasing in phrasings]
    return {tuple(words[i : i + NGRAM_WORDS]) for words in split for i in range(len(words) - NGRAM_WORDS + 1)}
