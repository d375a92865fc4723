"""Data files as streams of bytes, decompressed where they are compressed, with limits on what that may become."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, AnyStr

from tuneline.core.user_files import MIB

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
BUFFER_BYTES = 1 << 16
MAX_LINE_BYTES = 16 * MIB
"""Of a line, of an item of an array and of a row of a table: ten times what a million tokens of text take."""
MAX_TEXT_BYTES = 64 * MIB
"""Of a text file, which is held as a whole; the longest novels have 10 MB."""
MAX_TEXT_LINES = 1_000_000
"""Of a text file; the longest novels have 100,000."""
EXPANSION, FREE_BYTES = 200, 64 * MIB
"""Times its size that a compressed file may become, and what it may become in any case. Text becomes 3 to 10 times as
large, rows made by a program up to 100 times."""


class Unreadable(Exception):
    """A file, or the rest of it from a line on, that cannot be read; the message says why. Line 0 is not known."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


class Allowance:
    """How much of a compressed file's content may still be read."""

    def __init__(self, path: Path) -> None:
        self._left_bytes = max(FREE_BYTES, EXPANSION * path.stat().st_size)

    def take(self, count: int) -> None:
        """Note that `count` bytes were read. Raises Unreadable if the file has become too large."""
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise Unreadable(
                f"it expands to more than {EXPANSION} times its size; if that is intended, decompress it yourself"
            )


@contextmanager
def open_uncompressed(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, decompressing it if its first bytes are those of gzip or zstd.

    Reading raises Unreadable where the compressed file is cut or damaged, or where it becomes too large.
    """
    with path.open("rb") as raw:
        start = raw.read(4)
        raw.seek(0)
        form = "gzip" if start.startswith(GZIP) else "zstd" if start == ZSTD else None
        yield raw if form is None else io.BufferedReader(_Decompressed(raw, form, path), BUFFER_BYTES)


class _Decompressed(io.RawIOBase):
    """The content of a compressed file. Arrow's reader, unlike zstandard's, refuses a file that was cut."""

    def __init__(self, raw: IO[bytes], form: str, path: Path) -> None:
        import pyarrow as pa

        self._errors = (pa.ArrowException, OSError, ValueError)
        self._stream: Any = pa.CompressedInputStream(raw, form)
        self._allowance = Allowance(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._stream.read(len(buffer))
        except self._errors as error:
            raise Unreadable(f"the compressed file is cut or damaged: {error}") from None
        self._allowance.take(len(content))
        buffer[: len(content)] = content
        return len(content)


def read_lines(file: IO[AnyStr], first_line: int = 1) -> Iterator[AnyStr]:
    """Yield the lines of a file, each with its newline; `first_line` is the number of the next.

    Raises:
        Unreadable: a line is longer than `MAX_LINE_BYTES`, in characters if it is text.
    """
    number = first_line
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise Unreadable(f"a line of more than {MAX_LINE_BYTES / MIB:g} MiB, the limit for one line", number)
        yield line
        number += 1
