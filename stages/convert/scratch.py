"""Where a conversion's unfinished files are: beside the artifact, or on the local disk that TUNELINE_SCRATCH names.

They are written at random places and mapped into memory for writing. A Modal Volume uploads what changed in the
background (modal.com/docs/guide/volumes), each file as often as it is changed; so there they are on the container's own
disk, and only finished files are copied to the Volume.

The journal of a pass is beside the files it is about: on a Volume it would name tensors whose bytes were lost with the
container. So a conversion that is killed goes on here, and starts again on Modal, but for the files it had finished.
"""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from tuneline.core import paths
from tuneline.core.artifacts import SCRATCH
from tuneline.core.files import write_atomic

PLACE = "place"
"""In the artifact's scratch folder: the name of its folder on the local disk, so that it is of this very draft."""
_NAME = re.compile(r"[0-9a-f]{32}")
ARRIVING = "arriving"
"""In the artifact's scratch folder: a finished file or folder that is being copied from the local disk."""


@contextlib.contextmanager
def open_scratch(folder: Path) -> Iterator[Path]:
    """Yield the folder for unfinished files of the artifact in `folder`; one on a local disk is removed at the end.

    It stays if the block raises, and with it what a next call continues from.
    """
    records = folder / SCRATCH
    records.mkdir(exist_ok=True)
    if (disk := paths.scratch()) is None:
        yield records
        return
    place = records / PLACE
    if not place.exists():
        write_atomic(place, uuid.uuid4().hex)
    local = disk / place.read_text(encoding="utf-8")
    local.mkdir(parents=True, exist_ok=True)
    yield local
    shutil.rmtree(local)


def find_local_scratch(records: Path) -> Path | None:
    """Return the folder on the local disk of the artifact whose scratch folder is `records`; None if it has none.

    The name comes from a file of the run, which others may have written: one that leads elsewhere is none.
    """
    with contextlib.suppress(OSError, UnicodeDecodeError):
        name = (records / PLACE).read_text(encoding="utf-8")
        if (disk := paths.scratch()) and _NAME.fullmatch(name) and (disk / name).is_dir():
            return disk / name
    return None


def move_finished(source: Path, destination: Path, records: Path) -> None:
    """Move a finished file or folder; its content reaches the disk before its name does.

    From another disk it is copied to the folder `records` first, which is on the destination's.
    """
    arriving = source
    if source.stat().st_dev != records.stat().st_dev:
        arriving = records / ARRIVING
        _remove(arriving)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, arriving)
    for file in arriving.rglob("*") if arriving.is_dir() else [arriving]:
        _synchronize(file)
    destination.parent.mkdir(parents=True, exist_ok=True)
    arriving.replace(destination)
    _remove(source)


def _synchronize(file: Path) -> None:
    if file.is_file():
        with file.open("rb") as content:
            os.fsync(content.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
