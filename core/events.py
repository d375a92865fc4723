"""The run's one log: `events.jsonl`, appended by stages, read by terminal, report and whoever follows a run.

Every event has `time` (ISO, UTC), `stage` and `kind`, and fields of its kind:

    started, ended   a stage's attempt; ended has `seconds`
    progress         `done` of `total` in `unit`, `text`
    metrics          `step` and numbers (loss, learning_rate, gradient_norm, tokens_per_second, …)
    checkpoint       `step`, `path`
    sample           `step`, `samples`: each a `prompt`, what was `wanted`, what it `got`
    warning, note    `text`; a warning is an alert to whoever follows, a note is said once
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tuneline.core import jsonl

FILE = "events.jsonl"
Kind = Literal["started", "ended", "progress", "metrics", "checkpoint", "sample", "warning", "note"]


class Events:
    """Appends one stage's events; each is a single write, so that a crash can only cut the last line."""

    def __init__(self, run: Path, stage: str) -> None:
        self.path, self.stage = run / FILE, stage
        run.mkdir(parents=True, exist_ok=True)
        jsonl.end_cut_line(self.path)

    def emit(self, kind: Kind, **fields: Any) -> None:
        event = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "stage": self.stage,
            "kind": kind,
            **fields,
        }
        jsonl.append(self.path, event)

    def progress(self, done: float, total: float, unit: str, text: str = "") -> None:
        self.emit("progress", done=done, total=total, unit=unit, text=text)


class Silent(Events):
    """Takes events and writes none: of several processes that do the same, one tells."""

    def emit(self, kind: Kind, **fields: Any) -> None: ...


def read_events(run: Path) -> Iterator[dict[str, Any]]:
    """All whole events of a run, oldest first."""
    return Follower(run).new()


class Follower:
    """Reads what was appended since the last look; a line that is not whole yet waits for the next."""

    def __init__(self, run: Path, *, from_end: bool = False, offset: int = 0) -> None:
        self.path = run / FILE
        self._offset = self.path.stat().st_size if from_end and self.path.exists() else offset

    def new(self) -> Iterator[dict[str, Any]]:
        for line in jsonl.whole_lines(self.path, self._offset):
            self._offset += len(line)
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a line cut by a crash
            if isinstance(event, dict):
                yield event
