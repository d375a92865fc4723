"""Rows on disk between the examination and the split, with a few numbers for each in memory."""

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path

from tuneline.configs.data import Data
from tuneline.stages.prepare.examination import ExaminedRow
from tuneline.stages.prepare.validation_split import SplitKeys, choose_validation_rows


class RowStore:
    """Writes rows to a scratch file, splits them, and copies each side to its file.

    Rows are numbered in the order they are added. Memory does not grow with the length of rows.
    """

    def __init__(self, file: Path, seed: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._out = file, file.open("wb")
        self._offsets, self._sources = array("Q"), array("I")
        self._of_file_rows = array("Q")
        """By the number of a row among the rows of files: its number here plus one, or 0 if it was not added."""
        self._turns: dict[int, int] = {}
        """Rows here of a row of a file, where it became several."""
        self.split_keys = SplitKeys(seed)

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, examined: ExaminedRow) -> None:
        self.split_keys.add(examined.row, examined.label)
        if examined.file_row is not None and examined.file_row < len(self._of_file_rows):  # another turn of the last
            self._turns[examined.file_row] = self._turns.get(examined.file_row, 1) + 1
        elif examined.file_row is not None:
            self._of_file_rows.extend([0] * (examined.file_row - len(self._of_file_rows)))
            self._of_file_rows.append(len(self.split_keys))
        self._sources.append(examined.source)
        self._offsets.append(self._out.tell())
        self._out.write((examined.line or examined.row.model_dump_json(exclude_none=True).encode()) + b"\n")

    def split(self, data: Data, duplicate_of: Mapping[int, int]) -> tuple[list[int], list[int]]:
        """Return the numbers of the (training, validation) rows; training rows are repeated by their source's weight.

        A duplicate is put on the side of the row it repeats, or left out with `duplicates: drop`. If the recipe names
        the validation rows, a training row that repeats one of them is left out.
        """
        left_out, repeated = set[int](), dict[int, int]()
        for file_row in sorted(duplicate_of):
            row, first = self._number(file_row), self._number(duplicate_of[file_row])
            if row is not None and first is not None:
                for turn in range(row, row + self._turns.get(file_row, 1)):
                    self.split_keys.follow(turn, first)
                    repeated[turn] = first
                    if data.duplicates == "drop":
                        left_out.add(turn)
        if data.validation or len(data.sources) in self._sources:
            in_validation = self._stated_validation_rows(data)
            left_out |= self._repeats_of_validation(in_validation, repeated)
        else:
            in_validation = choose_validation_rows(
                self.split_keys, data.validation_share, data.validation_rows, left_out
            )
        train = [
            number
            for number, source in enumerate(self._sources)
            if not in_validation[number] and number not in left_out and source < len(data.sources)
            for _ in range(_repetitions(self.split_keys.row_keys[number], data.sources[source].weight))
        ]
        return train, [number for number, chosen in enumerate(in_validation) if chosen]

    def _stated_validation_rows(self, data: Data) -> list[bool]:
        """Return for each row whether it is validated on: those of `data.validation`, at most `validation_rows`."""
        stated = [number for number, source in enumerate(self._sources) if source == len(data.sources)]
        chosen = set(sorted(stated, key=lambda number: self.split_keys.row_keys[number])[: data.validation_rows])
        return [number in chosen for number in range(len(self))]

    def _repeats_of_validation(self, in_validation: list[bool], repeated: Mapping[int, int]) -> set[int]:
        """Return the rows with the requests of a validation row, and those that are duplicates of one.

        `repeated` has for each duplicate the earlier row that it repeats.
        """
        row_keys = self.split_keys.row_keys
        validation_keys = {key for key, chosen in zip(row_keys, in_validation, strict=True) if chosen}
        repeats = {row for row, key in enumerate(row_keys) if key in validation_keys and not in_validation[row]}
        for row, first in repeated.items():
            if not in_validation[row] and (in_validation[first] or first in repeats):
                repeats.add(row)
        return repeats

    def _number(self, file_row: int) -> int | None:
        """Return the number here of a row of a file, or None if it was not added."""
        number = self._of_file_rows[file_row] if 0 <= file_row < len(self._of_file_rows) else 0
        return number - 1 if number else None

    def write(self, file: Path, numbers: Sequence[int]) -> None:
        """Write the rows in this order. A crash leaves a part of the file, which is ignored without a manifest."""
        self._out.flush()
        with self._file.open("rb") as rows, file.open("wb") as out:
            for number in numbers:
                rows.seek(self._offsets[number])
                out.write(rows.readline())


def _repetitions(key: int, weight: float) -> int:
    """Return how often a row is in the training data.

    That is the whole part of the weight, and once more for a share of the rows that is its fraction, chosen by hash.
    """
    times, fraction = divmod(weight, 1.0)
    return int(times) + ((key * 0x9E3779B97F4A7C15) % 2**64 < fraction * 2**64)
