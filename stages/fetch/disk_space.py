"""Disk space: whether a model fits, and what to do when it does not."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuneline.core.disk_space import find_free_bytes
from tuneline.core.errors import StageFailed


def refuse_if_full(folder: Path, needed: int) -> None:
    """Raise StageFailed if the disk is known to have less than `needed` bytes free."""
    free = find_free_bytes(folder)
    if free is not None and needed > free:
        raise StageFailed(
            f"{folder}: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; free some space, or set "
            "TUNELINE_MODELS"
        )


@contextmanager
def explained_disk_full(folder: Path) -> Iterator[None]:
    """Turn the OSError of a full disk or an exceeded quota into a StageFailed that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StageFailed(
            f"{folder}: the disk is full; free some space, or set TUNELINE_MODELS, and run again"
        ) from None


def bytes_in(folder: Path) -> int:
    """Return the size of all files under a folder, which other threads may be writing to."""
    sizes = []
    for file in folder.rglob("*"):
        try:
            sizes.append(file.stat().st_size if file.is_file() else 0)
        except FileNotFoundError:
            continue  # renamed since it was listed
    return sum(sizes)
