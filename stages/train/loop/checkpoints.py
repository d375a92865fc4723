"""Checkpoints that can be resumed from: those whose `whole.json` was written and whose files still match it."""

import json
import shutil
from pathlib import Path

from tuneline.core.events import Events
from tuneline.core.files import sha256, write_atomic

MARK = "whole.json"
"""Maps each file of a checkpoint to its SHA-256; written last."""


def mark_complete(checkpoint: Path) -> None:
    """Record every file's SHA-256; a checkpoint without this record is not resumed from."""
    files = {str(f.relative_to(checkpoint)): sha256(f) for f in sorted(checkpoint.rglob("*")) if f.is_file()}
    write_atomic(checkpoint / MARK, json.dumps(files))


def find_newest_complete(folder: Path, events: Events) -> Path | None:
    """Return the newest complete checkpoint, or None; delete incomplete and damaged ones with a warning."""
    newest = None
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=_read_step, reverse=True):
        problem = _find_problem(checkpoint)
        if problem is None:
            newest = newest or checkpoint
            continue
        events.emit("warning", text=f"{checkpoint.name} is skipped: {problem}")
        shutil.rmtree(checkpoint)
    return newest


def last_checkpoint_step(folder: Path) -> int:
    """Return the step of the newest checkpoint, complete or not; 0 if there is none."""
    return max(map(_read_step, folder.glob("checkpoint-*")), default=0)


def _read_step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _find_problem(checkpoint: Path) -> str | None:
    if not (checkpoint / MARK).exists():
        return "it was not saved to its end"
    recorded: dict[str, str] = json.loads((checkpoint / MARK).read_text())
    for name, digest in recorded.items():
        if not (checkpoint / name).exists():
            return f"{name} is missing"
        if sha256(checkpoint / name) != digest:
            return f"{name} is damaged"
    return None
