"""A GGUF's metadata, read without llama.cpp (ggml, docs/gguf.md: all numbers little-endian)."""

import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

from tuneline.core.errors import StageFailed

MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type of a value → its format for `struct`."""


def read_metadata(file: Path, keys: Collection[str]) -> dict[str, Any]:
    """Return key → value of those `keys` that a GGUF has.

    Raises:
        StageFailed: it is no GGUF, or cut off.
    """
    found: dict[str, Any] = {}
    with file.open("rb") as content:
        try:
            if content.read(4) != MAGIC:
                raise StageFailed(f"{file}: is no GGUF")
            _, _, count = _numbers(content, "IQQ")
            for _ in range(count):
                key = _string(content).decode()
                value = _value(content, *_numbers(content, "I"))
                if key in keys:
                    found[key] = value
        except (struct.error, EOFError, KeyError, UnicodeDecodeError):
            raise StageFailed(f"{file}: its metadata is cut off or damaged") from None
    return found


def _value(content: BinaryIO, kind: int) -> Any:
    if kind == STRING:
        return _string(content).decode(errors="replace")
    if kind != ARRAY:
        return _numbers(content, NUMBERS[kind])[0]
    kind, count = _numbers(content, "IQ")
    if kind in NUMBERS:
        return _numbers(content, f"{count}{NUMBERS[kind]}")
    return [_value(content, kind) for _ in range(count)]


def _string(content: BinaryIO) -> bytes:
    (size,) = _numbers(content, "Q")
    text = content.read(size)
    if len(text) < size:
        raise EOFError
    return text


def _numbers(content: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{form}", content.read(struct.calcsize(f"<{form}")))
