"""When a version that could not be started is tried again: not with every look, each of which would read its files."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tuneline.core import paths
from tuneline.endpoints.promotion import Version

FIRST_PAUSE_S = 2.0
"""After the first failure; doubled after each further one."""
MOST_PAUSE_S = 300.0
Stamp = tuple[tuple[int, int, int] | None, ...]
"""Size, time and inode of each file of a version; None for one that is missing."""


@dataclass(frozen=True)
class _Failure:
    version: Version
    stamp: Stamp
    pause_s: float
    at: float


class StartRetries:
    """The versions that failed last, by promoted name."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failures: dict[str, _Failure] = {}

    def is_due(self, name: str, version: Version) -> bool:
        """Return whether a version may be tried: its pause is over, its files changed, or it has not failed."""
        failure = self._failures.get(name)
        if failure is None or failure.version != version or failure.stamp != _stamp(version):
            return True
        return self._now() - failure.at >= failure.pause_s

    def note_failure(self, name: str, version: Version) -> None:
        """Begin a pause, twice as long as the one before for the same version and files."""
        before, stamp = self._failures.get(name), _stamp(version)
        is_same = before is not None and before.version == version and before.stamp == stamp
        pause_s = min(MOST_PAUSE_S, 2 * before.pause_s) if before and is_same else FIRST_PAUSE_S
        self._failures[name] = _Failure(version, stamp, pause_s, self._now())

    def note_start(self, name: str) -> None:
        """Forget a failure: the version runs."""
        self._failures.pop(name, None)


def _stamp(version: Version) -> Stamp:
    run = paths.run_folder(version.run)
    return tuple(_stamp_file(run / file) for file in (*(version.files or [version.file]), "prepare/manifest.json"))


def _stamp_file(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
