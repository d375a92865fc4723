"""Free space of a folder's disk, where it is known.

What a Modal Volume answers is a placeholder (modal.com/docs/guide/volumes): there a write that fails is what counts.
"""

import os
from pathlib import Path

from tuneline.core.environment import read_variable

PLACEHOLDERS = "TUNELINE_PLACEHOLDER_DISKS"
"""Environment variable with the mount paths whose free space means nothing, separated by colons."""


def find_free_bytes(folder: Path) -> int | None:
    """Return the bytes that are free for a file in `folder`; None if nobody knows."""
    mounts = [Path(mount) for mount in read_variable(PLACEHOLDERS).split(":") if mount]
    if any(folder.resolve().is_relative_to(mount) for mount in mounts):
        return None
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
