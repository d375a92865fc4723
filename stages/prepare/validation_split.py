"""Chooses the rows of the validation split by a hash of the conversation or the document.

A row is chosen if its hash is below the share, whatever other rows there are, so adding rows moves no row to the other
side. Duplicates, near-duplicates and all parts of a document share a hash. Each label with enough rows has at least one
row in the split.
"""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from tuneline.stages.prepare.rows import Row

ENOUGH_ROWS = 10
"""A label with fewer rows may have none in the validation split."""
HASHES = 1 << 64


class SplitKeys:
    """What decides the side of each row: the hash of its document, of the row alone, and its label; 20 bytes a row."""

    def __init__(self, seed: int) -> None:
        self.keys, self.row_keys, self.labels = array("Q"), array("Q"), array("I")
        """For each row the hash of its document (or of the row), the hash of the row, and the number of its label."""
        self._seed, self._label_numbers = seed, dict[str, int]()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def label_names(self) -> list[str]:
        """The labels, indexed by their number."""
        return list(self._label_numbers)

    def count_labels(self, rows: Iterable[int]) -> Counter[str]:
        """Return how many of the numbered rows have each label."""
        names = self.label_names
        return Counter(names[self.labels[row]] for row in rows)

    def add(self, row: Row, label: str) -> None:
        """Add a row. Conversations with the same user messages have the same hash."""
        requests = json.dumps([message.content for message in row.messages if message.role == "user"])
        row_key = _hash(row.text or requests, self._seed)
        self.row_keys.append(row_key)
        self.keys.append(_hash(row.document, self._seed) if row.document else row_key)
        self.labels.append(self._label_numbers.setdefault(label, len(self._label_numbers)))

    def follow(self, row: int, first: int) -> None:
        """Put a duplicate on the side of the row it repeats."""
        self.keys[row] = self.row_keys[row] = self.keys[first]


def choose_validation_rows(
    split_keys: SplitKeys, share: float, max_rows: int, left_out: Collection[int] = ()
) -> list[bool]:
    """Return for each row whether it is in the validation split: about `share` of them, at most `max_rows`."""
    import numpy as np

    counted = np.ones(len(split_keys), dtype=bool)
    counted[list(left_out)] = False
    total = int(counted.sum())
    if total < 2:
        return [False] * len(split_keys)
    keys, labels = _effective_keys(split_keys), np.array(split_keys.labels)
    chosen = counted & (keys < np.uint64(min(HASHES - 1, int(HASHES * min(share, max_rows / total)))))
    for label in range(len(split_keys.label_names)):
        with_label = counted & (labels == label)
        if with_label.sum() >= ENOUGH_ROWS and not (with_label & chosen).any() and len(np.unique(keys[with_label])) > 1:
            chosen |= counted & (keys == keys[with_label].min())
    if chosen.sum() > max_rows:  # take those with the lowest hashes; a document stays whole
        limit = np.sort(keys[chosen])[max_rows]
        chosen = chosen & (keys < limit) if (chosen & (keys < limit)).any() else counted & (keys == limit)
    if not chosen.any():
        chosen = counted & (keys == keys[counted].min())
    result: list[bool] = chosen.tolist()
    return result


def single_document_labels(split_keys: SplitKeys) -> list[str]:
    """Return the labels whose rows all come from one document, which is therefore split itself."""
    return [split_keys.label_names[label] for label in _single_document_labels(split_keys)]


def _effective_keys(split_keys: SplitKeys) -> Any:
    """Return the hash of each row's document, or of the row where its label has a single document."""
    import numpy as np

    keys, row_keys, labels = np.array(split_keys.keys), np.array(split_keys.row_keys), np.array(split_keys.labels)
    return np.where(np.isin(labels, _single_document_labels(split_keys)), row_keys, keys)


def _single_document_labels(split_keys: SplitKeys) -> list[int]:
    first_key: dict[int, int] = {}
    with_several_keys: set[int] = set()
    with_documents: set[int] = set()
    for key, row_key, label in zip(split_keys.keys, split_keys.row_keys, split_keys.labels, strict=True):
        if first_key.setdefault(label, key) != key:
            with_several_keys.add(label)
        if key != row_key:
            with_documents.add(label)
    return [label for label in first_key if label in with_documents and label not in with_several_keys]


def _hash(text: str, seed: int) -> int:
    salt = seed.to_bytes(8, "big", signed=True) if seed else b""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8, salt=salt).digest())
