"""Finds texts that equal earlier ones (by hash) or nearly do (by MinHash with locality-sensitive hashing in bands).

A text takes 252 bytes for its signature and about 200 for its hash, whatever its length. Of each minimum only the low
16 bits are kept (b-bit minwise hashing, arXiv 0910.3349). Two texts are near-duplicates if the Jaccard similarity of
their sets of word pairs is about `NEAR` or more.
"""

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from typing import Any

NEAR = 0.8
PERMUTATIONS, BAND = 126, 6
"""21 bands of 6: a pair with similarity 0.8 is compared with probability 0.998, one with 0.5 with probability 0.28
(1 - (1 - J^6)^21)."""
SEED = 7
BATCH, GROWTH = 1024, 1 << 16
_NO_WORD = re.compile(r"\W+")
_ASCII = bytes(range(0x80))
_SPACE_IF_NO_WORD = bytes(c if c >= 0x80 or chr(c).isalnum() or chr(c) == "_" else 0x20 for c in range(0x100))
"""A translation table for bytes: a byte that is no part of a word becomes a space."""


@dataclass
class DuplicateIndex:
    """Texts that are added one by one and numbered in that order. Memory grows by about 450 bytes a text."""

    _hashes: dict[bytes, int] = field(default_factory=dict)
    _unsigned: list[list[bytes]] = field(default_factory=list)
    _numbers: "array[int]" = field(default_factory=lambda: array("I"))
    _signatures: Any = None
    _signed: int = 0
    count: int = 0

    def add(self, text: str) -> int | None:
        """Return the number of the earlier text that is equal but for case, space and punctuation, or None."""
        words = _split_words(text)
        key = blake2b(b" ".join(words), digest_size=12).digest()
        number = self.count
        self.count += 1
        if (first := self._hashes.setdefault(key, number)) != number:
            return first
        if words:
            self._unsigned.append(list(map(b" ".join, pairwise(words))) or words)
            self._numbers.append(number)
            if len(self._unsigned) >= BATCH:
                self._sign()
        return None

    def near(self) -> Iterator[tuple[int, int]]:
        """Yield (number, the number of the earlier text) for each text that is near but not equal to an earlier one."""
        import numpy as np

        self._sign()
        if not self._signed:
            return
        signatures = self._signatures[: self._signed]
        nearest = np.arange(len(signatures))
        for band in range(0, PERMUTATIONS, BAND):
            for later, earlier in _equal_rows(signatures[:, band : band + BAND]):
                near = (signatures[later] == signatures[earlier]).mean(axis=1) >= NEAR
                np.minimum.at(nearest, later[near], earlier[near])
        for index in np.flatnonzero(nearest < np.arange(len(nearest))):
            yield self._numbers[index], self._numbers[nearest[index]]

    def _sign(self) -> None:
        import numpy as np
        from rensa import RMinHash

        if not self._unsigned:
            return
        signatures = RMinHash.digest_matrix_from_token_byte_sets(self._unsigned, PERMUTATIONS, SEED).to_rows()
        end = self._signed + len(signatures)
        if self._signatures is None:
            self._signatures = np.zeros((GROWTH, PERMUTATIONS), dtype=np.uint16)
        while end > len(self._signatures):  # in place: two copies would be the peak of all memory
            self._signatures.resize((len(self._signatures) + GROWTH, PERMUTATIONS), refcheck=False)
        self._signatures[self._signed : end] = np.array(signatures, dtype=np.uint32).astype(np.uint16)
        self._signed = end
        self._unsigned = []


def _split_words(text: str) -> list[bytes]:
    r"""Return what `\w+` matches in the lower-case text, as UTF-8; three times faster than the pattern."""
    raw = text.lower().encode(errors="surrogatepass")
    non_ascii = raw.translate(None, _ASCII)
    if non_ascii and not non_ascii.decode(errors="surrogatepass").isalnum():
        raw = _NO_WORD.sub(" ", text.lower()).encode(errors="surrogatepass")
    return raw.translate(_SPACE_IF_NO_WORD).split()


def _equal_rows(columns: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (later, earlier) index arrays of rows with equal columns.

    Each row is paired with the first of its group, and with the one before it in the group.
    """
    import numpy as np

    keys = np.zeros(len(columns), dtype=np.uint64)
    for column in columns.T:
        keys = (keys ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    order = np.argsort(keys, kind="stable")
    repeats = np.flatnonzero(keys[order][1:] == keys[order][:-1]) + 1
    if not len(repeats):
        return
    starts = np.ones(len(order), dtype=bool)
    starts[repeats] = False
    first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    for piece in np.array_split(repeats, len(repeats) // 50_000 + 1):  # a bounded number of signatures at a time
        yield order[piece], order[first[piece]]
        yield order[piece], order[piece - 1]
