"""Checkouts: a container's copy of a volume, committed to and updated from the committed state."""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import grpclib

from tuneline.rehearsal.state import Checkout, Container
from tuneline.rehearsal.worker import list_processes

FOLDER = (0, 0)
"""Stands for a folder where files have their modification time and size."""

Inode = tuple[int, int, int]
"""Major and minor number of the device, and inode."""
Stamps = dict[str, tuple[int, int]]
"""Path → modification time (ns) and size of a file, or FOLDER."""


def commit_checkout(checkout: Checkout) -> None:
    """Copy what changed since the last commit or reload to the committed state.

    Raises:
        GRPCError: RESOURCE_EXHAUSTED if the volume is full; nothing is copied.
    """
    current, committed = _read_stamps(checkout.copy), checkout.volume.path
    synced = checkout.synced or {}
    if checkout.volume.max_bytes is not None:
        others_bytes = sum(size for name, (_, size) in _read_stamps(committed).items() if name not in current)
        if others_bytes + sum(size for _, size in current.values()) > checkout.volume.max_bytes:
            raise grpclib.GRPCError(grpclib.Status.RESOURCE_EXHAUSTED, f"Volume '{checkout.volume.name}' is full")
    _remove(committed, synced.keys() - current.keys())
    for name, stamp in current.items():
        if synced.get(name) != stamp:
            _copy(checkout.copy, committed, name, stamp)
    checkout.synced = current


@contextlib.contextmanager
def hidden_contents(folder: Path) -> Iterator[None]:
    """Let a folder appear empty until the block ends; what is written meanwhile stays, over what was there.

    modal.com/docs/guide/volumes: "during a reload, the Volume will appear empty to the container".
    """
    aside = folder.with_name(f"{folder.name}.reloading")
    aside.mkdir()
    _move_contents(folder, aside)
    try:
        yield
    finally:
        _move_contents(aside, folder)
        shutil.rmtree(aside)


def _move_contents(source: Path, target: Path) -> None:
    """Move what is in a folder to another one, where files that are there already stay."""
    for path in list(source.iterdir()):
        moved = target / path.name
        if moved.is_dir() and path.is_dir() and not path.is_symlink():
            _move_contents(path, moved)
        elif not os.path.lexists(moved):
            path.rename(moved)


def update_checkout(checkout: Checkout) -> None:
    """Copy the committed state to the checkout; what the container changed and did not commit is kept."""
    committed, local = _read_stamps(checkout.volume.path), _read_stamps(checkout.copy)
    synced = checkout.synced or {}
    uncommitted = {name for name, stamp in local.items() if synced.get(name) != stamp}
    _remove(checkout.copy, local.keys() - committed.keys() - uncommitted)
    for name, stamp in committed.items():
        if stamp == FOLDER or (name not in uncommitted and local.get(name) != stamp):
            _copy(checkout.volume.path, checkout.copy, name, stamp)
    current = _read_stamps(checkout.copy)
    checkout.synced = {name: stamp for name, stamp in current.items() if name not in uncommitted} | {
        name: synced[name] for name in uncommitted if name in synced
    }


def has_open_files(container: Container, folder: Path) -> bool:
    """Whether a process of the container, a child's child too, has a file below `folder` open or mapped into memory.

    A mapped file is an open one (mmap(2) keeps it so after close; modal.com/docs/guide/volumes: "open files"). Compares
    inodes: paths differ between mount namespaces.
    """
    statuses = [path.lstat() for path in folder.rglob("*") if path.is_file()]
    inodes = {(os.major(s.st_dev), os.minor(s.st_dev), s.st_ino) for s in statuses}
    return any(inodes & (_list_open(process) | _list_mapped(process)) for process in list_processes(container))


def _list_open(process: Path) -> set[Inode]:
    """Return the files that a process in /proc has open; of one that is ending, none."""
    found = set()
    for descriptor in process.glob("fd/*"):
        with contextlib.suppress(OSError):
            status = descriptor.stat()
            found.add((os.major(status.st_dev), os.minor(status.st_dev), status.st_ino))
    return found


def _list_mapped(process: Path) -> set[Inode]:
    """Return the files that a process in /proc has mapped (proc(5), `/proc/pid/maps`)."""
    try:
        lines = (process / "maps").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    devices = ((device.partition(":"), inode) for _, _, _, device, inode, *_ in map(str.split, lines))
    return {(int(major, 16), int(minor, 16), int(inode)) for (major, _, minor), inode in devices}


def _read_stamps(folder: Path) -> Stamps:
    stamps = {}
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue  # the container has just moved it
        is_folder = stat.S_ISDIR(status.st_mode)
        stamps[str(path.relative_to(folder))] = FOLDER if is_folder else (status.st_mtime_ns, status.st_size)
    return stamps


def _copy(source: Path, target: Path, name: str, stamp: tuple[int, int]) -> None:
    """Copy a file atomically, or make a folder."""
    if stamp == FOLDER:
        (target / name).mkdir(parents=True, exist_ok=True)
        return
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    temporary = target / f"{name}.~"
    try:
        shutil.copy2(source / name, temporary, follow_symlinks=False)
    except FileNotFoundError:
        if (source / name).exists():
            raise
        return  # the container has just moved it: the next commit has it
    temporary.replace(target / name)


def _remove(root: Path, names: set[str]) -> None:
    """Remove files, and folders that are then empty, the deepest first."""
    for name in sorted(names, key=lambda name: -name.count("/")):
        path = root / name
        with contextlib.suppress(OSError):  # a folder in which others have put something stays
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
