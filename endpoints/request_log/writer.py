"""The writer of the request log: a file of its own for each process and day, a line in a single write."""

import errno
import os
import socket
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from tuneline.core.jsonl import end_cut_line

FOLDER = "requests"


class LogWriter:
    """Appends lines, so that what was written is there even if the process is killed right after."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._writer = f"{socket.gethostname()}-{os.getpid()}"
        self._day: date | None = None
        self._descriptor = -1
        self._is_cut = False
        """Whether the last line was written in part."""

    def append(self, record: dict[str, Any]) -> None:
        """Write one line."""
        today = datetime.now(UTC).date()
        if today != self._day:
            self._open(today)
        line = orjson.dumps(record) + b"\n"
        if self._is_cut:
            line = b"\n" + line  # what a full disk left of the one before it must not take this one along
        written = os.write(self._descriptor, line)
        self._is_cut = written < len(line)
        if self._is_cut:
            raise OSError(errno.ENOSPC, "the request log: a line was written in part")

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor, self._day = -1, None

    def _open(self, day: date) -> None:
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{day.isoformat()}-{self._writer}.jsonl"
        end_cut_line(file)
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._day, self._is_cut = day, False


def remove_old_days(folder: Path, retain_days: int, today: date | None = None) -> list[Path]:
    """Remove and return the files of days that are more than `retain_days` ago."""
    first = (today or datetime.now(UTC).date()) - timedelta(days=retain_days)
    old = [file for file in log_files(folder) if file.name[:10] < first.isoformat()]
    for file in old:
        file.unlink(missing_ok=True)
    return old


def log_files(folder: Path) -> list[Path]:
    """Return the files of all writers, oldest day first."""
    return sorted((folder / FOLDER).glob("????-??-??-*.jsonl"))
