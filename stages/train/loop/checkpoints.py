"""Which checkpoints count: those whose `whole.json` was written, and whose files still are as it says."""

import json
import shutil
from pathlib import Path

from tuneline.core.events import Events
from tuneline.core.files import sha256, write_atomic

MARK = "whole.json"


def mark_whole(checkpoint: Path) -> None:
    """Record every file's SHA-256; only from now on is the checkpoint resumed from."""
    files = {str(f.relative_to(checkpoint)): sha256(f) for f in sorted(checkpoint.rglob("*")) if f.is_file()}
    write_atomic(checkpoint / MARK, json.dumps(files))


def newest_whole(folder: Path, events: Events) -> Path | None:
    """The newest checkpoint that is whole; the others are removed, damaged ones with a warning."""
    newest = None
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda c: int(c.name.split("-")[1]), reverse=True):
        problem = _problem(checkpoint)
        if problem is None:
            newest = newest or checkpoint
            continue
        events.emit("warning", text=f"{checkpoint.name} is skipped: {problem}")
        shutil.rmtree(checkpoint)
    return newest


def _problem(checkpoint: Path) -> str | None:
    if not (checkpoint / MARK).exists():
        return "it was not saved to its end"
    recorded: dict[str, str] = json.loads((checkpoint / MARK).read_text())
    for name, digest in recorded.items():
        if not (checkpoint / name).exists():
            return f"{name} is missing"
        if sha256(checkpoint / name) != digest:
            return f"{name} is damaged"
    return None
