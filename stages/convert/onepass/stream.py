"""One pass over base and adapter, row block by row block, that writes every output file.

Tensors that nothing changes are copied first, while torch is imported. The rows of the others are read in the order of
the base's files, merged, encoded in each type (once, however many files use it) and written to their destinations. A
journal names the tensors whose rows are all on the disk, so that a killed pass continues after them. Memory holds a
few blocks for each thread, whatever the size of the model.
"""

import gc
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tuneline.stages.checkpoints.buffers import BufferPool
from tuneline.stages.checkpoints.lora_adapter import Adapter
from tuneline.stages.checkpoints.safetensors_files import StoredTensor, read_rows, truncation_error
from tuneline.stages.convert.onepass.ggml import Ggml
from tuneline.stages.convert.onepass.journal import Journal
from tuneline.stages.convert.onepass.output_files import SAME, Destination, OutputFile, write_at, write_rows
from tuneline.stages.convert.onepass.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import torch

BLOCK_BYTES = 2 << 20
"""Bytes of the base that a thread reads at a time; in fp32 and in the output types a block is several times that."""
ROWS_MULTIPLE = 32
"""Blocks end at a multiple of so many rows if rows are short enough: matrix products of odd heights are slower."""
DURABLE_BYTES = 256 << 20
"""Bytes of the base after which the journal is written; if the pass is durable, once they are on the disk."""


def stream_tensors(
    base: Sequence[StoredTensor],
    destinations: Mapping[str, Sequence[Destination]],
    files: Sequence[OutputFile],
    adapter: Adapter | None,
    ggml: Ggml | None,
    *,
    journal: Path,
    threads: int,
    progress: Progress,
    durable: bool = True,
) -> None:
    """Write all `files`: each tensor of `base` to its destinations. What a killed call finished is kept.

    If `durable`, all data is on the disk on return. Otherwise the kernel writes it when it likes, and after a crash of
    the machine, though not of the process, the next call starts again from the beginning.
    """
    record = Journal(journal, files, durable=durable)
    if not record.resumes:
        for file in files:
            file.create()
    record.begin()
    outputs = [os.open(file.path, os.O_WRONLY) for file in files]
    inputs = {path: os.open(path, os.O_RDONLY) for path in {tensor.file for tensor in base}}
    used = [tensor for tensor in base if destinations.get(tensor.name)]
    total = sum(tensor.bytes for tensor in used)
    finished = sum(tensor.bytes for tensor in used if tensor.name in record.finished)
    remaining = [tensor for tensor in used if tensor.name not in record.finished]
    remaining.sort(key=lambda tensor: not _is_copied(tensor, destinations[tensor.name], adapter))
    try:
        with ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(1) as disk:  # blocks do not wait for the disk
            checkpoints = _Checkpoints(record, outputs, disk)
            progress(finished, total)
            torch_loaded = pool.submit(_load_torch)
            blocks = _BlockWriter(destinations, outputs, inputs, adapter, ggml, torch_loaded)
            for tensor in _write_blocks(pool, threads, remaining, blocks):
                finished += tensor.bytes
                checkpoints.add(tensor, last=finished == total)
                progress(finished, total)
            checkpoints.wait()
    finally:
        for descriptor in (*outputs, *inputs.values()):
            os.close(descriptor)


def _load_torch() -> None:
    gc.disable()
    import torch

    gc.freeze()  # otherwise torch's many objects are scanned again and again, at exit for half a second
    gc.enable()
    torch.set_num_threads(1)  # blocks are processed in parallel already


class _Checkpoints:
    """Writes finished tensors to the journal, in the thread of `disk`, every DURABLE_BYTES."""

    def __init__(self, journal: Journal, descriptors: Sequence[int], disk: ThreadPoolExecutor) -> None:
        self._journal, self._descriptors, self._disk = journal, descriptors, disk
        self._names: list[str] = []
        self._bytes = 0
        self._writes: list[Future[None]] = []

    def add(self, tensor: StoredTensor, *, last: bool) -> None:
        self._names.append(tensor.name)
        self._bytes += tensor.bytes
        if self._bytes >= DURABLE_BYTES or last:
            self._writes.append(self._disk.submit(self._write, self._names))
            self._names, self._bytes = [], 0

    def wait(self) -> None:
        """Wait until the journal is written, and raise what failed."""
        for write in self._writes:
            write.result()

    def _write(self, names: Sequence[str]) -> None:
        for descriptor in self._descriptors if self._journal.durable else ():
            os.fdatasync(descriptor)
        self._journal.add(names)


@dataclass(frozen=True)
class _Encoding:
    """What the bytes of a row depend on, beside the row itself."""

    tuned: bool
    kind: str
    weighted: bool


@dataclass(frozen=True)
class _BlockWriter:
    """Reads a block of rows, merges and encodes it, and writes it to its destinations. Used by all threads."""

    destinations: Mapping[str, Sequence[Destination]]
    outputs: Sequence[int]
    inputs: Mapping[Path, int]
    adapter: Adapter | None
    ggml: Ggml | None
    torch_loaded: "Future[None]"
    local: threading.local = field(default_factory=threading.local)

    def write(self, tensor: StoredTensor, first: int, last: int) -> None:
        """Write rows `first` to `last` (exclusive) of a tensor."""
        if _is_copied(tensor, self.destinations[tensor.name], self.adapter):
            self._copy(tensor, first, last)
            return
        self.torch_loaded.result()
        buffers = self._buffers()
        base = read_rows(tensor, self.inputs[tensor.file], first, last, buffers)
        changed = self.adapter is not None and tensor.name in self.adapter.weight_names
        destinations = self.destinations[tensor.name]
        merged: dict[bool, torch.Tensor] = {}
        encoded: dict[_Encoding, np.ndarray] = {}
        for destination in destinations:
            encoding = _Encoding(destination.tuned and changed, destination.kind, destination.importance is not None)
            if encoding not in encoded:
                weights = self._merge(tensor, base, first, last, encoding, merged) if encoding.tuned else base
                encoded[encoding] = self._encode(weights, destination, encoding, buffers)
            write_rows(self.outputs[destination.file], destination, first, encoded[encoding])

    def _merge(
        self,
        tensor: StoredTensor,
        base: "torch.Tensor",
        first: int,
        last: int,
        encoding: _Encoding,
        merged: "dict[bool, torch.Tensor]",
    ) -> "torch.Tensor":
        """Return merged rows: in the base's type for a file of that type, else the fp32 sums. `merged` keeps both."""
        import torch

        in_base_type = encoding.kind == SAME
        if in_base_type not in merged:
            assert self.adapter
            dtype = base.dtype if in_base_type else torch.float32
            merged[in_base_type] = self.adapter.merge_rows(tensor.name, base, first, last, self._buffers(), dtype)
        return merged[in_base_type]

    def _copy(self, tensor: StoredTensor, first: int, last: int) -> None:
        offset, length = tensor.offset + first * tensor.row_bytes, (last - first) * tensor.row_bytes
        while length:
            data = os.pread(self.inputs[tensor.file], length, offset)
            if not data:
                raise truncation_error(tensor)
            for destination in self.destinations[tensor.name]:
                write_at(self.outputs[destination.file], data, destination.offset + offset - tensor.offset)
            offset, length = offset + len(data), length - len(data)

    def _encode(
        self, weights: "torch.Tensor", destination: Destination, encoding: _Encoding, buffers: BufferPool
    ) -> "np.ndarray":
        """Return rows in the type of `destination`, uint8; they may be in memory of `buffers`."""
        import numpy as np
        import torch

        kind, importance = destination.kind, destination.importance
        if kind == SAME:
            return weights.view(torch.uint8).numpy()
        assert self.ggml
        values = buffers.tensor((encoding, "fp32") if kind == "F32" else "fp32", torch.float32, *weights.shape)
        values.copy_(weights)
        if kind == "F32":
            return values.view(torch.uint8).numpy()
        column_weights = None if importance is None else np.ascontiguousarray(importance[destination.matrix])
        count, columns = values.shape
        out = buffers.tensor(encoding, torch.uint8, count, self.ggml.row_bytes(kind, columns))
        return self.ggml.quantize(kind, values.numpy(), column_weights, out.numpy())

    def _buffers(self) -> BufferPool:
        """Return this thread's own buffers."""
        if not hasattr(self.local, "buffers"):
            self.local.buffers = BufferPool()
        buffers: BufferPool = self.local.buffers
        return buffers


def _is_copied(tensor: StoredTensor, destinations: Sequence[Destination], adapter: Adapter | None) -> bool:
    """Return whether the tensor's bytes go into every file as they are."""
    changed = adapter is not None and tensor.name in adapter.weight_names
    return all(
        destination.kind == SAME and destination.order is None and not (changed and destination.tuned)
        for destination in destinations
    )


def _write_blocks(
    pool: ThreadPoolExecutor, threads: int, tensors: Sequence[StoredTensor], writer: _BlockWriter
) -> Iterator[StoredTensor]:
    """Write the blocks of all tensors; yield a tensor when its last block is written.

    At most two blocks a thread are submitted at a time.
    """
    blocks = [(tensor, first, last) for tensor in tensors for first, last in block_ranges(tensor)]
    open_blocks = {tensor.name: 0 for tensor in tensors}
    for tensor, _, _ in blocks:
        open_blocks[tensor.name] += 1
    running: dict[Future[None], StoredTensor] = {}
    upcoming = iter(blocks)
    exhausted = False
    while running or not exhausted:
        while not exhausted and len(running) < 2 * threads:
            block = next(upcoming, None)
            if block is None:
                exhausted = True
            else:
                running[pool.submit(writer.write, *block)] = block[0]
        for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
            future.result()
            tensor = running.pop(future)
            open_blocks[tensor.name] -= 1
            if not open_blocks[tensor.name]:
                yield tensor


def block_ranges(tensor: StoredTensor) -> Iterator[tuple[int, int]]:
    """Yield the first and last (exclusive) row of each block."""
    fitting = max(1, BLOCK_BYTES // tensor.row_bytes)
    step = fitting - fitting % ROWS_MULTIPLE if fitting > ROWS_MULTIPLE else fitting
    for first in range(0, tensor.rows, step):
        yield first, min(tensor.rows, first + step)
