"""Checkouts: a container's copy of a volume, committed to and updated from the committed state."""

import contextlib
import shutil
import stat
from pathlib import Path

import grpclib

from tuneline.rehearsal.state import Checkout, Container
from tuneline.rehearsal.worker import list_processes

FOLDER = (0, 0)
"""Stands for a folder where files have their modification time and size."""

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
    """Whether the container has a file below `folder` open.

    Compares inodes: paths differ between mount namespaces.
    """
    inodes = {(s.st_dev, s.st_ino) for s in (p.lstat() for p in folder.rglob("*") if p.is_file())}
    for descriptor in (fd for process in list_processes(container) for fd in process.glob("fd/*")):
        try:
            status = descriptor.stat()
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in inodes:
            return True
    return False


def _read_stamps(folder: Path) -> Stamps:
    stamps = {}
    for path in folder.rglob("*"):
        status = path.lstat()
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
    shutil.copy2(source / name, temporary, follow_symlinks=False)
    temporary.replace(target / name)


def _remove(root: Path, names: set[str]) -> None:
    """Remove files, and folders that are then empty, the deepest first."""
    for name in sorted(names, key=lambda name: -name.count("/")):
        path = root / name
        with contextlib.suppress(OSError):  # a folder in which others have put something stays
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
