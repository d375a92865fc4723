"""Safetensors files: which tensors they contain, and single rows of them without reading the rest.

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
from tuneline.core.user_files import parse_json
from tuneline.stages.checkpoints.buffers import BufferPool

if TYPE_CHECKING:
    import torch

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""The one file of a model's weights; or which of several files holds which weight."""
MAX_HEADER_BYTES = 100_000_000
"""As the format's own library has it."""
_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}
"""Size of a number, by type; of other types the size is not checked."""
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""Types that can be merged into and quantized, by their safetensors name, with torch's name."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is stored in a file.

    It is read as a matrix: a vector has one column, a tensor of more than two dimensions has rows of its last one.
    """

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


def list_tensors(file: Path) -> Iterator[StoredTensor]:
    """Yield the tensors of one file, in the order of their bytes.

    Raises:
        StageFailed: it is not a safetensors file, or it is truncated.
    """
    start, header = read_header(file)
    expected = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if (size := file.stat().st_size) < expected:
        raise StageFailed(f"{file}: {size} bytes of {expected}; fetch or train it again")
    end_before = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        (begin, end), dtype, shape = entry["data_offsets"], entry["dtype"], tuple(entry["shape"])
        known_bytes = math.prod(shape) * _BYTES[dtype] if dtype in _BYTES else end - begin
        if begin != end_before or end - begin != known_bytes:
            raise StageFailed(
                f"{file}: {name}: the size in its header does not match its data; fetch or train it again"
            )
        end_before = end
        yield StoredTensor(name, file, dtype, shape, start + begin, end - begin)


def list_model_tensors(model: Path) -> list[StoredTensor]:
    """Return all tensors of a model folder, shard by shard.

    Raises:
        StageFailed: the index or a shard is damaged.
    """
    return [tensor for shard in list_shards(model) for tensor in list_tensors(shard)]


def read_header(file: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the offset of the data, and each tensor's dtype, shape and data_offsets by name.

    Raises:
        StageFailed: it is not a safetensors file.
    """
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = parse_json(opened.read(length)) if length <= MAX_HEADER_BYTES else None
    except FileNotFoundError:
        raise StageFailed(f"{file}: missing; fetch or train it again") from None
    except (struct.error, ValueError):
        header = None
    if not isinstance(header, dict):
        raise StageFailed(f"{file}: incomplete or damaged safetensors file; fetch or train it again")
    header.pop("__metadata__", None)
    if odd := [name for name, entry in header.items() if not _is_entry(entry)]:
        raise StageFailed(f"{file}: {odd[0][:80]!r} in its header is not a tensor; fetch or train it again")
    return 8 + length, header


def _is_entry(entry: Any) -> bool:
    """Return whether this is a tensor's dtype, shape and place, as the format has them."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, place = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(place, list) or len(place) != 2:
        return False
    return all(type(n) is int and 0 <= n < 1 << 62 for n in (*shape, *place)) and place[0] <= place[1]


def list_shards(model: Path) -> list[Path]:
    """Return the weight files of a model folder: those in its index; else the one file; else all.

    Raises:
        StageFailed: the index cannot be read.
    """
    index = model / INDEX
    if index.exists():
        try:
            return [
                model / name
                for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            ]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise StageFailed(f"{index}: not an index of weights; fetch it again") from None
    return [model / SINGLE] if (model / SINGLE).exists() else sorted(model.glob("*.safetensors"))


def read_rows(tensor: StoredTensor, descriptor: int, first: int, last: int, buffers: BufferPool) -> "torch.Tensor":
    """Return rows `first` to `last` (exclusive) as [rows, columns], in memory of `buffers`.

    `descriptor` is the open file. A type that is not in DTYPES is returned as bytes, uint8.

    Raises:
        StageFailed: the file ends too early.
    """
    import torch

    dtype = getattr(torch, DTYPES.get(tensor.dtype, "uint8"))
    rows = buffers.tensor("rows", dtype, last - first, tensor.row_bytes // dtype.itemsize)
    position, view = tensor.offset + first * tensor.row_bytes, memoryview(rows.view(torch.uint8).numpy().data).cast("B")
    while view:
        count = os.preadv(descriptor, [view], position)
        if not count:
            raise truncation_error(tensor)
        position, view = position + count, view[count:]
    return rows


def truncation_error(tensor: StoredTensor) -> StageFailed:
    """Return the error to raise when a file ends before its header says."""
    return StageFailed(f"{tensor.file}: ends inside {tensor.name}; fetch it again")


def load_rows(tensor: StoredTensor, first: int, last: int) -> "torch.Tensor":
    """Return rows as `read_rows` does, from a file that is not open and in memory of their own."""
    descriptor = os.open(tensor.file, os.O_RDONLY)
    try:
        return read_rows(tensor, descriptor, first, last, BufferPool())
    finally:
        os.close(descriptor)
