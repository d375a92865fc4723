"""Progress is only shown: whatever an event holds, and whatever becomes of the terminal, the work goes on."""

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import pytest

from tuneline.core.progress import Progress
from tuneline.core.safe_console import SafeConsole

EVENTS: list[dict[str, Any]] = [
    {"stage": "train", "kind": "started", "usd_per_hour": 3.0},
    {"stage": "train", "kind": "finished"},
    {"stage": "train", "kind": "ended", "seconds": 3.2},
    {"stage": "train", "kind": "stopping"},
    {"stage": "train", "kind": "stopped", "text": "interrupted at step 3; the same command resumes"},
    {"stage": "train", "kind": "warning", "text": "[/red] [link=x]"},
    {"stage": "train", "kind": "note", "text": "a note"},
    {"stage": "fetch", "kind": "progress", "unit": "bytes", "done": 1e9, "total": 2e9, "text": "[/bold]"},
    {"stage": "prepare", "kind": "progress", "unit": "rows", "done": 1, "total": 2, "text": "[/x] and [y"},
    {"stage": "train", "kind": "metrics", "step": 1, "steps": 9, "loss": 0.5, "tokens_per_second": 10.0},
    {"stage": "train", "kind": "metrics", "step": 1, "steps": 9, "validation_loss": 0.5, "perplexity": 1.6},
    {"stage": "train", "kind": "checkpoint", "step": 1, "path": "checkpoint-1"},
    {"stage": "train", "kind": "sample", "step": 1, "samples": []},
]
"""One of each kind, as stages write them."""
DAMAGE: list[Any] = [None, float("nan"), float("inf"), "text", "", [], {}, -1, 10**400]


def damaged_events() -> list[dict[str, Any]]:
    """Each event without each of its fields, and with each field replaced."""
    without = [{key: value for key, value in event.items() if key != name} for event in EVENTS for name in event]
    return without + [event | {name: value} for event in EVENTS for name in event for value in DAMAGE]


@pytest.mark.parametrize("on_terminal", [True, False])
def test_a_loss_that_is_no_number_is_shown_as_that(on_terminal: bool) -> None:
    out = io.StringIO()
    with Progress(SafeConsole(file=out, force_terminal=on_terminal, width=200)) as progress:
        progress.show({"stage": "train", "kind": "metrics", "step": 3, "steps": 9, "loss": None})
        progress.show({"stage": "train", "kind": "metrics", "step": 3, "steps": 9, "validation_loss": None})
    assert "loss no number" in out.getvalue() and "validation loss no number" in out.getvalue()


@pytest.mark.parametrize("on_terminal", [True, False])
def test_no_event_can_end_the_work(on_terminal: bool) -> None:
    out = io.StringIO()
    with Progress(SafeConsole(file=out, force_terminal=on_terminal, width=200)) as progress:
        for event in EVENTS + damaged_events():
            progress.show(event)
        progress.show({"stage": "train", "kind": "note", "text": "still here"})
    assert "still here" in out.getvalue() and "[/red] [link=x]" in out.getvalue()


@pytest.mark.parametrize("on_terminal", [True, False])
def test_the_work_goes_on_when_the_terminal_is_gone(on_terminal: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out, Progress(SafeConsole(file=out, force_terminal=on_terminal)) as progress:
        for event in EVENTS:
            progress.show(event)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
def test_the_work_goes_on_when_the_output_is_full() -> None:
    out = Path("/dev/full").open("w", encoding="utf-8", buffering=1)  # noqa: SIM115 - closing it fails, too
    with Progress(SafeConsole(file=out)) as progress:
        for event in EVENTS:
            progress.show(event)
    with contextlib.suppress(OSError):
        out.close()
