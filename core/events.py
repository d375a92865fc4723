"""The run's one log: `events.jsonl`, appended by stages, read by the terminal, the report and whoever follows a run.

Every event has `time` (ISO, UTC), `stage` and `kind`, and the fields of its kind. A number that is not finite is None.

    started, ended   one attempt at a stage; `started` has `usd_per_hour` if it is billed, `ended` has `seconds`
    progress         `done` of `total` in `unit`, `text`
    metrics          `step` and numbers (loss, learning_rate, gradient_norm, tokens_per_second, …)
    checkpoint       `step`, `path`
    sample           `step`, `samples`: each a `prompt`, the expected `wanted`, the generated `got`
    warning, note    `text`; a warning is shown as an alert, a note is only information
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any, Literal

from tuneline.core import jsonl
from tuneline.core.redaction import redact

FILE = "events.jsonl"
NUMBER: tuple[type, ...] = (int, float)
TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("time", "stage", "kind", "text", "unit", "path", "prompt", "wanted", "got"), (str,)),
    **dict.fromkeys(("done", "total", "seconds", "usd_per_hour"), NUMBER),
    **dict.fromkeys(("step", "steps"), (int,)),
    **dict.fromkeys(("loss", "validation_loss", "perplexity", "learning_rate", "gradient_norm"), (*NUMBER, NoneType)),
    **dict.fromkeys(("tokens_per_second", "memory_gb", "process_gb"), NUMBER),
    "samples": (list,),
}
"""Types of the fields that readers know; another field may hold anything."""
REQUIRED = {
    "ended": ("seconds",),
    "progress": ("done", "total", "unit", "text"),
    "metrics": ("step",),
    "checkpoint": ("step", "path"),
    "sample": ("step", "samples"),
    "warning": ("text",),
    "note": ("text",),
}
"""Fields that an event of a kind has."""
Kind = Literal["started", "ended", "progress", "metrics", "checkpoint", "sample", "warning", "note"]


class Events:
    """Appends the events of one stage. Each is a single write, so a crash can only cut the last line."""

    def __init__(self, run: Path, stage: str) -> None:
        self.path, self.stage = run / FILE, stage
        run.mkdir(parents=True, exist_ok=True)
        jsonl.end_cut_line(self.path)

    def emit(self, kind: Kind, **fields: Any) -> None:
        """Append one event with the current time; credentials in its `text` are masked."""
        if "text" in fields:
            fields["text"] = redact(str(fields["text"]))
        event = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "stage": self.stage,
            "kind": kind,
            **fields,
        }
        jsonl.append(self.path, event)

    def progress(self, done: float, total: float, unit: str, text: str = "") -> None:
        """Append a progress event."""
        self.emit("progress", done=done, total=total, unit=unit, text=text)


class SilentEvents(Events):
    """Discards events; for all but one of several processes that do the same work."""

    def emit(self, kind: Kind, **fields: Any) -> None: ...


def parse_event(line: bytes) -> dict[str, Any] | None:
    """Return the event in a line, or None if the line is damaged, as one that a crash has cut."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if _is_event(event) else None


def _is_event(event: Any) -> bool:
    if not _has(event, ("time", "stage", "kind")) or not _has(event, REQUIRED.get(event["kind"], ())):
        return False
    with contextlib.suppress(ValueError):
        datetime.fromisoformat(event["time"])
        return all(_has(sample, ("prompt", "wanted", "got")) for sample in event.get("samples", ()))
    return False


def _has(record: Any, required: Sequence[str]) -> bool:
    """Return whether it is a JSON object with the required fields, each known field of its type."""
    return (
        isinstance(record, dict)
        and all(field in record for field in required)
        and all(type(value) in TYPES.get(field, (type(value),)) for field, value in record.items())
    )


def read_events(run: Path) -> Iterator[dict[str, Any]]:
    """Yield all events of a run, oldest first; damaged lines are left out."""
    return Follower(run).new_events()


class Follower:
    """Reads the events that were appended since the last call; an incomplete line is left for the next call.

    The first call begins at byte `offset`, or at the present end of the file with `from_end`.
    """

    def __init__(self, run: Path, *, from_end: bool = False, offset: int = 0) -> None:
        self.path = run / FILE
        self._offset = self.path.stat().st_size if from_end and self.path.exists() else offset

    def new_events(self) -> Iterator[dict[str, Any]]:
        """Yield the events since the last call, oldest first."""
        for line in jsonl.whole_lines(self.path, self._offset):
            self._offset += len(line)
            if event := parse_event(line):
                yield event
