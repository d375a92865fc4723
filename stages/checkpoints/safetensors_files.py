"""The tensors of safetensors files: what there is, and reading rows of it without the rest.

Format: https://github.com/huggingface/safetensors#format
"""

import json
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.core.errors import StageFailed
from tuneline.stages.checkpoints.buffers import Room

if TYPE_CHECKING:
    import torch

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""What can be merged into and quantized, and what torch calls it."""


@dataclass(frozen=True)
class Stored:
    """One tensor in a file; a vector counts as rows of one element, what has more dimensions as rows of its last."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Of its first byte, from the start of the file."""
    bytes: int

    @property
    def columns(self) -> int:
        return self.shape[-1] if len(self.shape) > 1 else 1

    @property
    def rows(self) -> int:
        return math.prod(self.shape) // self.columns if self.shape else 1

    @property
    def row_bytes(self) -> int:
        return self.bytes // self.rows


def stored(file: Path) -> Iterator[Stored]:
    """The tensors of one file, in the order of their bytes.

    Raises:
        StageFailed: it is no safetensors file, or not all of it is there.
    """
    start, header = read_header(file)
    needed = start + max((about["data_offsets"][1] for about in header.values()), default=0)
    if (there := file.stat().st_size) < needed:
        raise StageFailed(f"{file}: {there} bytes of {needed}; fetch or train it again")
    for name, about in sorted(header.items(), key=lambda entry: entry[1]["data_offsets"]):
        begin, end = about["data_offsets"]
        yield Stored(name, file, about["dtype"], tuple(about["shape"]), start + begin, end - begin)


def read_header(file: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Where the data starts, and dtype, shape and data_offsets by name.

    Raises:
        StageFailed: it is no safetensors file.
    """
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length))
    except FileNotFoundError:
        raise StageFailed(f"{file}: missing; fetch or train it again") from None
    except (struct.error, ValueError, OverflowError, MemoryError):
        raise StageFailed(f"{file}: not a whole safetensors file; fetch or train it again") from None
    header.pop("__metadata__", None)
    return 8 + length, header


def shards(model: Path) -> list[Path]:
    """The weight files of a model folder, those its index names if it has one.

    Raises:
        StageFailed: the index cannot be read.
    """
    index = model / "model.safetensors.index.json"
    if index.exists():
        try:
            return [model / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise StageFailed(f"{index}: not an index of weights; fetch it again") from None
    return sorted(model.glob("*.safetensors"))


def rows(tensor: Stored, descriptor: int, first: int, last: int, room: Room) -> "torch.Tensor":
    """Rows `first` up to `last`, [rows, columns], in `room`; as bytes if their type is none of DTYPES."""
    import torch

    dtype = getattr(torch, DTYPES.get(tensor.dtype, "uint8"))
    found = room.tensor("rows", dtype, last - first, tensor.row_bytes // dtype.itemsize)
    place, view = tensor.offset + first * tensor.row_bytes, memoryview(found.view(torch.uint8).numpy().data).cast("B")
    while view:
        read = os.preadv(descriptor, [view], place)
        if not read:
            raise cut_off(tensor)
        place, view = place + read, view[read:]
    return found


def cut_off(tensor: Stored) -> StageFailed:
    """The error of a file that has become shorter than it says."""
    return StageFailed(f"{tensor.file}: ends inside {tensor.name}; fetch it again")


def part(tensor: Stored, first: int, last: int) -> "torch.Tensor":
    """`rows` of a file that is not open, in memory of their own."""
    descriptor = os.open(tensor.file, os.O_RDONLY)
    try:
        return rows(tensor, descriptor, first, last, Room())
    finally:
        os.close(descriptor)


def is_tied(base: Path) -> bool:
    """Whether input and output embeddings are one matrix, as config.json says."""
    config = json.loads((base / "config.json").read_text())
    return bool(config.get("tie_word_embeddings", config.get("text_config", {}).get("tie_word_embeddings", False)))
