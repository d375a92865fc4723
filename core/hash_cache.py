"""SHA-256 of files; that of a large file is computed once while its size, times and inode stay the same."""

import contextlib
import hashlib
import os
import re
import time
from pathlib import Path

from tuneline.core import paths
from tuneline.core.files import sha256, write_atomic

CACHED_BYTES = 64 << 20
"""Smaller files are read every time: that takes less than 50 ms."""
SETTLED_S = 2.0
"""A hash is kept once the file is older than this: two writes within one tick of a clock leave the same times."""
_HEX = re.compile(r"[0-9a-f]{64}")


def cached_sha256(path: Path) -> str:
    """Return a file's SHA-256, from the cache if the file is large and was hashed since it was last written."""
    status = path.stat()
    if status.st_size < CACHED_BYTES:
        return sha256(path)
    cache_file = paths.cache() / "hashes" / hashlib.sha256(_identify(path, status).encode()).hexdigest()
    with contextlib.suppress(OSError):
        if _HEX.fullmatch(known := cache_file.read_text()):
            return known
    digest = sha256(path)
    is_settled = time.time_ns() - status.st_ctime_ns > 1e9 * SETTLED_S
    if is_settled and _identify(path, path.stat()) == _identify(path, status):  # not written to while it was read
        with contextlib.suppress(OSError):  # a cache that cannot be written to costs time, nothing else
            cache_file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(cache_file, digest)
    return digest


def _identify(path: Path, status: os.stat_result) -> str:
    """Return what changes when a file is written to or replaced; nobody can set the last time, ctime, back."""
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return " ".join(map(str, (path.resolve(), status.st_size, status.st_dev, status.st_ino, *times)))
