"""Base and adapter, read once and row block by row block, into every file that is wanted of them.

Tensors that nothing changes are copied first, while torch loads. The rows of the others are read in the order of the
base's files, merged, brought into each wanted type (once, however many files want it) and written to their places. A
journal names the tensors whose rows all lie on disk, so that a killed pass goes on behind them. Memory holds a block
for each thread, whatever the size of the model.
"""

import gc
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.stages.checkpoints.buffers import Room
from tuneline.stages.checkpoints.lora_adapter import Adapter
from tuneline.stages.checkpoints.safetensors_files import Stored, cut_off, rows
from tuneline.stages.convert.onepass.ggml import Ggml

if TYPE_CHECKING:
    import numpy as np
    import torch

BLOCK_BYTES = 2 << 20
"""Of the base, read at a time by one thread; in fp32 and in the wanted types it is several times that."""
ROWS_MULTIPLE = 32
"""Blocks end at a multiple of so many rows, where rows are short enough: matrix products of odd heights are slower."""
DURABLE_BYTES = 256 << 20
"""After so much of the base, the journal says so; if it is to be durable, once that is on the disk."""
SAME = "same"
"""In place of a type of ggml: the stored bytes as they are."""

Progress = Callable[[int, int], None]
"""Told how many bytes of the base are done, of how many."""


@dataclass(frozen=True)
class Place:
    """Where the rows of one tensor go in one file."""

    file: int
    tuned: bool
    """The adapter is merged into them."""
    kind: str
    """A type of ggml, in capitals, or SAME."""
    offset: int
    row_bytes: int
    rounded: str = "float32"
    """Torch's name of the type the values are rounded to first, as a GGUF in between would."""
    order: "np.ndarray | None" = None
    """The row each row becomes; None keeps them where they are."""
    importance: "np.ndarray | None" = None
    """How much each column counts, fp32; for a stack of matrices, one row of it each."""
    matrix: int = 0
    """Which matrix of the stack these rows are."""


@dataclass
class Target:
    """A file to write: how long it gets, and what is in it before any tensor."""

    path: Path
    size: int
    header: bytes
    more: list[tuple[int, Callable[[], bytes]]] = field(default_factory=list)
    """What no rows of the base become: offset, and what makes it."""

    def describe(self) -> list[Any]:
        return [self.path.name, self.size, hashlib.sha256(self.header).hexdigest()]


class Journal:
    """Which tensors are done; only if begun for the same files and, unless `durable`, since the machine started."""

    def __init__(self, path: Path, targets: Sequence[Target], *, durable: bool) -> None:
        self.path, self.durable = path, durable
        plan = json.dumps([[target.describe() for target in targets], "" if durable else _boot()])
        self.plan = hashlib.sha256(plan.encode()).hexdigest()
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        sizes = all(t.path.exists() and t.path.stat().st_size == t.size for t in targets)
        self.done = set(lines[1:]) if lines[:1] == [self.plan] and sizes else set()
        self.goes_on = bool(self.done)

    def begin(self) -> None:
        if not self.goes_on:
            self.path.write_text(f"{self.plan}\n")

    def add(self, names: Sequence[str]) -> None:
        with self.path.open("a") as file:
            file.write("".join(f"{name}\n" for name in names))
            file.flush()
            if self.durable:
                os.fsync(file.fileno())


def stream(
    base: Sequence[Stored],
    places: dict[str, list[Place]],
    targets: Sequence[Target],
    adapter: Adapter | None,
    ggml: Ggml | None,
    *,
    journal: Path,
    threads: int,
    progress: Progress,
    durable: bool = True,
) -> None:
    """Write every target whole, each tensor of `base` to its `places`; on top of what a killed call left.

    All is on the disk when it returns if it is to be `durable`. Else the kernel writes it when it likes, and after a
    crash of the machine, though not of the process, the next call begins anew.
    """
    record = Journal(journal, targets, durable=durable)
    if not record.goes_on:
        for target in targets:
            _begin(target)
    record.begin()
    files = [os.open(target.path, os.O_WRONLY) for target in targets]
    readers = {file: os.open(file, os.O_RDONLY) for file in {tensor.file for tensor in base}}
    wanted = [tensor for tensor in base if places.get(tensor.name)]
    total, done = sum(t.bytes for t in wanted), sum(t.bytes for t in wanted if t.name in record.done)
    todo = [tensor for tensor in wanted if tensor.name not in record.done]
    todo.sort(key=lambda tensor: not _is_copied(tensor, places[tensor.name], adapter))
    pending: list[str] = []
    unsafe = 0

    def note(names: Sequence[str]) -> None:
        for file in files if durable else ():
            os.fdatasync(file)
        record.add(names)

    try:
        with ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(1) as disk:  # blocks do not wait for the disk
            noted: list[Future[None]] = []
            progress(done, total)
            loaded = pool.submit(_load_torch)
            for tensor in _finished(pool, threads, todo, _Work(places, files, readers, adapter, ggml, loaded)):
                done, unsafe = done + tensor.bytes, unsafe + tensor.bytes
                pending.append(tensor.name)
                if unsafe >= DURABLE_BYTES or done == total:
                    noted.append(disk.submit(note, pending))
                    pending, unsafe = [], 0
                progress(done, total)
            for one in noted:
                one.result()
    finally:
        for descriptor in (*files, *readers.values()):
            os.close(descriptor)


def _load_torch() -> None:
    gc.disable()
    import torch

    gc.freeze()  # else all that torch is made of is looked through again and again, at exit for half a second
    gc.enable()
    torch.set_num_threads(1)  # threads are over blocks


def _boot() -> str:
    """Which start of which machine this is. random(4)"""
    known = Path("/proc/sys/kernel/random/boot_id")
    return known.read_text().strip() if known.exists() else uuid.uuid4().hex


def _begin(target: Target) -> None:
    with target.path.open("wb") as file:
        file.write(target.header)
        for place, content in target.more:
            file.seek(place)
            file.write(content())
        file.truncate(target.size)


@dataclass(frozen=True)
class _Work:
    """What a thread needs to do a block."""

    places: dict[str, list[Place]]
    files: Sequence[int]
    readers: dict[Path, int]
    adapter: Adapter | None
    ggml: Ggml | None
    loaded: "Future[None]"
    """Done once torch can be used."""
    rooms: threading.local = field(default_factory=threading.local)

    def block(self, tensor: Stored, first: int, last: int) -> None:
        if _is_copied(tensor, self.places[tensor.name], self.adapter):
            self._copy(tensor, first, last)
            return
        self.loaded.result()
        room = self._room()
        base = rows(tensor, self.readers[tensor.file], first, last, room)
        changed = self.adapter is not None and tensor.name in self.adapter.names
        places = self.places[tensor.name]
        tuned = base
        if changed and any(place.tuned for place in places):
            assert self.adapter
            tuned = self.adapter.merged(tensor.name, base, first, last, room)
        made: dict[Any, np.ndarray] = {}
        for place in places:
            key = (place.tuned and changed, place.kind, place.rounded, place.importance is not None)
            if key not in made:
                made[key] = self._encoded(tuned if key[0] else base, place, key, room)
            _write(self.files[place.file], place, first, made[key])

    def _copy(self, tensor: Stored, first: int, last: int) -> None:
        offset, length = tensor.offset + first * tensor.row_bytes, (last - first) * tensor.row_bytes
        while length:
            found = os.pread(self.readers[tensor.file], length, offset)
            if not found:
                raise cut_off(tensor)
            for place in self.places[tensor.name]:
                _pwrite(self.files[place.file], found, place.offset + offset - tensor.offset)
            offset, length = offset + len(found), length - len(found)

    def _encoded(self, weights: "torch.Tensor", place: Place, key: Hashable, room: Room) -> "np.ndarray":
        import numpy as np
        import torch

        if place.kind == SAME:
            return weights.view(torch.uint8).numpy()
        assert self.ggml
        values = room.tensor((key, "fp32") if place.kind == "F32" else "fp32", torch.float32, *weights.shape)
        values.copy_(weights.to(getattr(torch, place.rounded)))
        if place.kind == "F32":
            return values.view(torch.uint8).numpy()
        weighed = None if place.importance is None else np.ascontiguousarray(place.importance[place.matrix])
        count, columns = values.shape
        out = room.tensor(key, torch.uint8, count, self.ggml.row_bytes(place.kind, columns))
        return self.ggml.quantized(place.kind, values.numpy(), weighed, out.numpy())

    def _room(self) -> Room:
        """This thread's own."""
        if not hasattr(self.rooms, "one"):
            self.rooms.one = Room()
        room: Room = self.rooms.one
        return room


def _is_copied(tensor: Stored, places: Sequence[Place], adapter: Adapter | None) -> bool:
    """Whether its bytes go into every file as they are."""
    tuned = adapter is not None and tensor.name in adapter.names
    return all(place.kind == SAME and place.order is None and not (tuned and place.tuned) for place in places)


def _finished(pool: ThreadPoolExecutor, threads: int, todo: Sequence[Stored], work: _Work) -> Iterator[Stored]:
    """Does the blocks of all tensors, few ahead of the threads; yields a tensor when its last block is done."""
    open_blocks = {tensor.name: 0 for tensor in todo}
    running: dict[Future[None], Stored] = {}
    blocks = [(tensor, first, last) for tensor in todo for first, last in block_ranges(tensor)]
    for tensor, _, _ in blocks:
        open_blocks[tensor.name] += 1
    upcoming = iter(blocks)
    exhausted = False
    while running or not exhausted:
        while not exhausted and len(running) < 2 * threads:
            block = next(upcoming, None)
            if block is None:
                exhausted = True
            else:
                running[pool.submit(work.block, *block)] = block[0]
        for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
            future.result()
            tensor = running.pop(future)
            open_blocks[tensor.name] -= 1
            if not open_blocks[tensor.name]:
                yield tensor


def block_ranges(tensor: Stored) -> Iterator[tuple[int, int]]:
    """First and last row of each block."""
    fit = max(1, BLOCK_BYTES // tensor.row_bytes)
    step = fit - fit % ROWS_MULTIPLE if fit > ROWS_MULTIPLE else fit
    for first in range(0, tensor.rows, step):
        yield first, min(tensor.rows, first + step)


def _write(descriptor: int, place: Place, first: int, data: "np.ndarray") -> None:
    """Rows to where they belong, in as few writes as they are runs of neighbours."""
    import numpy as np

    if place.order is None:
        _pwrite(descriptor, _bytes(data), place.offset + first * place.row_bytes)
        return
    rows_at = place.order[first : first + len(data)]
    sorting = np.argsort(rows_at)
    rows_at, data = rows_at[sorting], data[sorting]
    cuts = np.flatnonzero(np.diff(rows_at) != 1) + 1
    for start, run in zip((0, *cuts), np.split(data, cuts), strict=True):
        _pwrite(descriptor, _bytes(run), place.offset + int(rows_at[start]) * place.row_bytes)


def _bytes(data: "np.ndarray") -> memoryview:
    return memoryview(data.tobytes() if not data.flags.c_contiguous else data.data).cast("B")


def _pwrite(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


class Paced:
    """Passes progress on, twice a second at most, with the speed and the time that is left."""

    def __init__(self, tell: Callable[[int, int, str], None]) -> None:
        self.tell, self.started, self.at, self.last = tell, time.monotonic(), -1, 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.at < 0:
            self.at = done
        if done < total and now - self.last < 0.5:
            return
        self.last = now
        speed = (done - self.at) / max(now - self.started, 1e-9)
        left = f", {(total - done) / speed:.0f} s left" if speed and done < total else ""
        self.tell(done, total, f"{speed / 1e6:.0f} MB/s{left}" if speed else "")
