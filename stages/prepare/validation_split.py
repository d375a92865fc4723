"""Which rows are kept for validation: by a hash of the conversation or the document, so that a row keeps its side.

A row is kept if its hash is below the share, whatever other rows there are; appending rows moves none. Equal and
nearly equal rows, and all parts of a document, share a hash. Each label with enough rows has at least one kept.
"""

import hashlib
import json
from array import array
from collections.abc import Collection
from typing import Any

from tuneline.stages.prepare.rows import Row

ENOUGH = 10
"""A label with fewer rows may have none kept."""
HIGHEST = 1 << 64


class Places:
    """What decides each row's side: its hash, that of its conversation alone, and its label; 20 bytes a row."""

    def __init__(self, seed: int) -> None:
        self.keys, self.own, self.labels = array("Q"), array("Q"), array("I")
        self._seed, self._numbers = seed, dict[str, int]()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def names(self) -> list[str]:
        """Labels, by the number that stands for each."""
        return list(self._numbers)

    def add(self, row: Row, label: str) -> None:
        """A row; the same conversation has the same hash, whatever stands around it."""
        said = json.dumps([message.content for message in row.messages if message.role == "user"])
        own = _hash(row.text or said, self._seed)
        self.own.append(own)
        self.keys.append(_hash(row.document, self._seed) if row.document else own)
        self.labels.append(self._numbers.setdefault(label, len(self._numbers)))

    def follow(self, row: int, first: int) -> None:
        """Puts a double on the side of the row it is a double of."""
        self.keys[row] = self.own[row] = self.keys[first]


def sides(places: Places, share: float, most: int, left_out: Collection[int] = ()) -> list[bool]:
    """For each row whether it is kept for validation: about `share` of them, `most` at most."""
    import numpy as np

    counted = np.ones(len(places), dtype=bool)
    counted[list(left_out)] = False
    total = int(counted.sum())
    if total < 2:
        return [False] * len(places)
    keys, labels = _keys(places), np.array(places.labels)
    kept = counted & (keys < np.uint64(min(HIGHEST - 1, int(HIGHEST * min(share, most / total)))))
    for label in range(len(places.names)):
        mine = counted & (labels == label)
        if mine.sum() >= ENOUGH and not (mine & kept).any() and len(np.unique(keys[mine])) > 1:
            kept |= counted & (keys == keys[mine].min())
    if kept.sum() > most:  # those with the lowest hashes; a document stays whole
        limit = np.sort(keys[kept])[most]
        kept = kept & (keys < limit) if (kept & (keys < limit)).any() else counted & (keys == limit)
    if not kept.any():
        kept = counted & (keys == keys[counted].min())
    found: list[bool] = kept.tolist()
    return found


def single_documents(places: Places) -> list[str]:
    """Labels whose rows all come from one document, which has to be split."""
    return [places.names[label] for label in _alone(places)]


def _keys(places: Places) -> Any:
    """Of the documents; of the rows where a label has a single document."""
    import numpy as np

    keys, own, labels = np.array(places.keys), np.array(places.own), np.array(places.labels)
    return np.where(np.isin(labels, _alone(places)), own, keys)


def _alone(places: Places) -> list[int]:
    first: dict[int, int] = {}
    several: set[int] = set()
    parts: set[int] = set()
    for key, own, label in zip(places.keys, places.own, places.labels, strict=True):
        if first.setdefault(label, key) != key:
            several.add(label)
        if key != own:
            parts.add(label)
    return [label for label in first if label in parts and label not in several]


def _hash(text: str, seed: int) -> int:
    salt = seed.to_bytes(8, "big", signed=True) if seed else b""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8, salt=salt).digest())
