"""The request log as it grows: the lines of all writers, each once."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import orjson

from tuneline.core.jsonl import whole_lines
from tuneline.endpoints.request_log.writer import log_files


class LogFollower:
    """Reads what was appended since the last time. A line that is no JSON, cut by a crash, is passed over."""

    def __init__(self, folder: Path, since: date | None = None) -> None:
        """`since`: files of days before it are not read."""
        self._folder, self._since = folder, since
        self._offsets: dict[Path, int] = {}

    def poll(self) -> Iterator[dict[str, Any]]:
        """Yield the new records: those of a writer in order, writers after each other."""
        for file in log_files(self._folder):
            if self._since is None or file.name[:10] >= self._since.isoformat():
                yield from self._read(file)

    def _read(self, file: Path) -> Iterator[dict[str, Any]]:
        offset = self._offsets.get(file, 0)
        try:
            if file.stat().st_size == offset:
                return
            for line in whole_lines(file, offset):
                offset += len(line)
                try:
                    record = orjson.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict):
                    yield record
        except FileNotFoundError:  # its days are over
            return
        finally:
            self._offsets[file] = offset
