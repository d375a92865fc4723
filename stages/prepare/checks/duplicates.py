"""Rows that are equal, or nearly, to others: exact ones by a hash, near ones by MinHash and bands.

A row costs 252 bytes for its signature and about 200 for its hash, whatever its length: of each minimum the low 16 bits
are kept (b-bit minwise hashing, arXiv 0910.3349). Two rows are near if the share of word pairs they have in common
(Jaccard) is about `NEAR` or more.
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
"""21 bands of 6: a pair at 0.8 is compared with probability 0.998, one at 0.5 with 0.28 (1 - (1 - J^6)^21)."""
SEED = 7
BATCH, GROWTH = 1024, 1 << 16
_BETWEEN = re.compile(r"\W+")
_ASCII = bytes(range(0x80))
_LETTERS = bytes(c if c >= 0x80 or chr(c).isalnum() or chr(c) == "_" else 0x20 for c in range(0x100))
"""By byte: itself, or a space for what is no part of a word."""


@dataclass
class Index:
    """Texts added one by one, in memory that grows by about 450 bytes each."""

    _hashes: dict[bytes, int] = field(default_factory=dict)
    _waiting: list[list[bytes]] = field(default_factory=list)
    _numbers: "array[int]" = field(default_factory=lambda: array("I"))
    _signatures: Any = None
    _signed: int = 0
    count: int = 0

    def add(self, text: str) -> int | None:
        """The number of the earlier text that is equal but for case, space and punctuation; None if there is none."""
        words = _words(text)
        key = blake2b(b" ".join(words), digest_size=12).digest()
        number = self.count
        self.count += 1
        if (first := self._hashes.setdefault(key, number)) != number:
            return first
        if words:
            self._waiting.append(list(map(b" ".join, pairwise(words))) or words)
            self._numbers.append(number)
            if len(self._waiting) >= BATCH:
                self._sign()
        return None

    def near(self) -> Iterator[tuple[int, int]]:
        """(number, the earlier number it is near to) of each text that is near but not equal to an earlier one."""
        import numpy as np

        self._sign()
        if not self._signed:
            return
        signatures = self._signatures[: self._signed]
        nearest = np.arange(len(signatures))
        for band in range(0, PERMUTATIONS, BAND):
            for here, there in _same(signatures[:, band : band + BAND]):
                alike = (signatures[here] == signatures[there]).mean(axis=1) >= NEAR
                np.minimum.at(nearest, here[alike], there[alike])
        for place in np.flatnonzero(nearest < np.arange(len(nearest))):
            yield self._numbers[place], self._numbers[nearest[place]]

    def _sign(self) -> None:
        import numpy as np
        from rensa import RMinHash

        if not self._waiting:
            return
        signatures = RMinHash.digest_matrix_from_token_byte_sets(self._waiting, PERMUTATIONS, SEED).to_rows()
        end = self._signed + len(signatures)
        if self._signatures is None:
            self._signatures = np.zeros((GROWTH, PERMUTATIONS), dtype=np.uint16)
        while end > len(self._signatures):  # in place: two copies would be the peak of all memory
            self._signatures.resize((len(self._signatures) + GROWTH, PERMUTATIONS), refcheck=False)
        self._signatures[self._signed : end] = np.array(signatures, dtype=np.uint32).astype(np.uint16)
        self._signed = end
        self._waiting = []


def _words(text: str) -> list[bytes]:
    r"""What `\w+` finds in the text in lower case, as UTF-8, three times faster."""
    raw = text.lower().encode(errors="surrogatepass")
    others = raw.translate(None, _ASCII)
    if others and not others.decode(errors="surrogatepass").isalnum():
        raw = _BETWEEN.sub(" ", text.lower()).encode(errors="surrogatepass")
    return raw.translate(_LETTERS).split()


def _same(columns: Any) -> Iterator[tuple[Any, Any]]:
    """Pairs of rows with equal columns: each with the first of its group, and with the one before it."""
    import numpy as np

    keys = np.zeros(len(columns), dtype=np.uint64)
    for column in columns.T:
        keys = (keys ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    order = np.argsort(keys, kind="stable")
    again = np.flatnonzero(keys[order][1:] == keys[order][:-1]) + 1
    if not len(again):
        return
    starts = np.ones(len(order), dtype=bool)
    starts[again] = False
    first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    for piece in np.array_split(again, len(again) // 50_000 + 1):  # a bounded number of signatures at a time
        yield order[piece], order[first[piece]]
        yield order[piece], order[piece - 1]
