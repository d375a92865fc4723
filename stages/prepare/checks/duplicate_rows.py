"""Duplicates among the rows read from files, and rows that repeat the held-out data; each reported with its place."""

from array import array
from collections.abc import Iterator

from tuneline.stages.prepare.checks.duplicates import DuplicateIndex
from tuneline.stages.prepare.checks.personal_data import quote_start
from tuneline.stages.prepare.checks.problems import Problem

HELD_OUT = -1
"""Stands for an earlier row that is in `data.held_out`."""


class RowLocations:
    """File and line of each row read from a file, by the row's number; 8 bytes a row."""

    def __init__(self) -> None:
        self._files: list[str] = []
        self._file_of, self._line_of = array("I"), array("I")

    def add(self, file: str, line: int) -> int:
        """Record where a row is and return its number. Rows of a file are added one after the other."""
        number = len(self._line_of)
        if not self._files or self._files[-1] != file:
            self._files.append(file)
        self._file_of.append(len(self._files) - 1)
        self._line_of.append(line)
        return number

    def __getitem__(self, number: int) -> tuple[str, int]:
        """Return (file, line) of a row."""
        return self._files[self._file_of[number]], self._line_of[number]


class DuplicateRows:
    """Finds duplicates among rows. Held-out texts are added first, then the rows in the order of their numbers."""

    def __init__(self, locations: RowLocations) -> None:
        self._locations = locations
        self._index, self._held_out = DuplicateIndex(), 0
        self.duplicate_of: dict[int, int] = {}
        """For each duplicate or near-duplicate the number of the earlier row it repeats, or `HELD_OUT`."""

    def add_held_out(self, text: str) -> None:
        """Add a text that no row may repeat."""
        self._index.add(text)
        self._held_out = self._index.count

    def add(self, number: int, text: str) -> Problem | None:
        """Add a row's text; return a problem if it equals an earlier one, else None."""
        earlier = self._index.add(text)
        return None if earlier is None else self._report(number, earlier, near=False, quote=quote_start(text))

    def find_near(self) -> Iterator[Problem]:
        """Yield a problem for each row that is nearly equal to an earlier one, once all rows have been added."""
        for text, earlier in self._index.near():
            if text >= self._held_out:
                yield self._report(text - self._held_out, earlier, near=True)

    def _report(self, number: int, earlier: int, *, near: bool, quote: str = "") -> Problem:
        file, line = self._locations[number]
        if earlier < self._held_out:
            self.duplicate_of[number] = HELD_OUT
            kind, relation = ("near_test", "nearly equal to") if near else ("in_test", "equal to")
            return Problem(kind, file, line, f"{relation} a row of data.held_out", quote=quote)
        first = earlier - self._held_out
        self.duplicate_of[number] = first
        kind, relation = ("near_duplicate", "nearly equal to") if near else ("duplicate", "equal to")
        return Problem(kind, file, line, f"{relation} {':'.join(map(str, self._locations[first]))}", quote=quote)
