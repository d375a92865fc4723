"""The files that one pass writes, and where the rows of each tensor belong in them."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

SAME = "same"
"""In place of a tensor type of ggml: the stored bytes as they are."""


@dataclass(frozen=True)
class Destination:
    """Where the rows of one stored tensor belong in one file, and in which type."""

    file: int
    """Index of the file."""
    tuned: bool
    """Whether the adapter is merged into the rows."""
    kind: str
    """A tensor type of ggml, in capitals, or SAME."""
    offset: int
    row_bytes: int
    order: "np.ndarray | None" = None
    """The row that each row becomes; None if they keep their order."""
    importance: "np.ndarray | None" = None
    """The weight of each column, fp32; one row for each matrix of a stack."""
    matrix: int = 0
    """Index of the matrix in the stack that these rows are."""


@dataclass
class OutputFile:
    """A file to write: its final size, and what it contains before any row of the base."""

    path: Path
    size: int
    header: bytes
    computed: list[tuple[int, Callable[[], bytes]]] = field(default_factory=list)
    """Tensors that are not made of rows of the base: offset, and the function that returns the bytes."""

    def describe(self) -> list[Any]:
        """Return what identifies the file in a journal."""
        return [self.path.name, self.size, hashlib.sha256(self.header).hexdigest()]

    def create(self) -> None:
        """Write the file in its full size, with holes in place of the base's rows."""
        with self.path.open("wb") as file:
            file.write(self.header)
            for offset, compute in self.computed:
                file.seek(offset)
                file.write(compute())
            file.truncate(self.size)


def write_rows(descriptor: int, destination: Destination, first: int, data: "np.ndarray") -> None:
    """Write rows from `first` on to their destination, in as few writes as there are runs of neighbours."""
    import numpy as np

    if destination.order is None:
        write_at(descriptor, _to_bytes(data), destination.offset + first * destination.row_bytes)
        return
    rows = destination.order[first : first + len(data)]
    sorting = np.argsort(rows)
    rows, data = rows[sorting], data[sorting]
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    for start, run in zip((0, *cuts), np.split(data, cuts), strict=True):
        write_at(descriptor, _to_bytes(run), destination.offset + int(rows[start]) * destination.row_bytes)


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data`; one call of pwrite may write less."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _to_bytes(data: "np.ndarray") -> memoryview:
    return memoryview(data.tobytes() if not data.flags.c_contiguous else data.data).cast("B")
