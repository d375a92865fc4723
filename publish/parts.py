"""A file in parts with their hashes: the next part is read and hashed while the one before it is sent."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PART_BYTES = 16 << 20
"""Two are in memory at a time. S3 takes parts of 5 MiB and more."""


@dataclass(frozen=True)
class Part:
    """One part of a file."""

    number: int
    """From 1."""
    content: bytes
    sha256: bytes

    @property
    def md5(self) -> str:
        """Its MD5 in hex; computed when it is asked for, which is for parts of an upload that is continued."""
        return hashlib.md5(self.content, usedforsecurity=False).hexdigest()


def read_parts(path: Path, part_bytes: int = PART_BYTES) -> Iterator[Part]:
    """Yield a file's parts in order; an empty file has one, which is empty."""
    with path.open("rb") as file, ThreadPoolExecutor(1) as reader:

        def read(number: int) -> Part | None:
            content = file.read(part_bytes)
            if not content and number > 1:
                return None
            return Part(number, content, hashlib.sha256(content).digest())

        number, ahead = 1, reader.submit(read, 1)
        while (part := ahead.result()) is not None:
            number += 1
            ahead = reader.submit(read, number)
            yield part
