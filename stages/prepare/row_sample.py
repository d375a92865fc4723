"""A uniform random sample of a stream of rows."""

import random

from tuneline.stages.prepare.rows import Row


class RowSample:
    """Holds up to `size` rows of all that are added, each equally likely (Vitter's algorithm R)."""

    def __init__(self, size: int, seed: int) -> None:
        self.rows: list[Row] = []
        self._size, self._rng, self._added = size, random.Random(seed), 0

    def add(self, row: Row) -> None:
        self._added += 1
        if len(self.rows) < self._size:
            self.rows.append(row)
        elif (position := self._rng.randrange(self._added)) < self._size:
            self.rows[position] = row
