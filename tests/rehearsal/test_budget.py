"""Hours and money of a run on Modal: written down, added up over calls, preemptions and restarts, and enforced."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MICRO
from tests.rehearsal.conftest import Checkout, Stage, eventually
from tuneline.core.events import read_events

STARTS_S = 12.0
"""For a container's start, and the end of the process in it, on a busy machine."""


def recipe(folder: Path, compute: str) -> Path:
    file = folder / "small.yaml"
    file.write_text(MICRO.read_text() + f"compute: {{{compute}}}\n")
    return file


@dataclass
class Bill:
    """What containers of a function ran, in seconds, and how many there were."""

    seconds: float = 0.0
    containers: int = 0


@contextlib.contextmanager
def billed(stage: Stage, function: str) -> Iterator[Bill]:
    """Count the seconds that containers of a function are alive in the block, as Modal would."""
    bill, stop, before = Bill(), threading.Event(), set(stage.rehearsal.plane.state.containers)

    def count() -> None:
        last = time.monotonic()
        while not stop.wait(0.1):
            now = time.monotonic()
            mine = [
                c
                for c in list(stage.rehearsal.plane.state.containers.values())
                if c.id not in before and c.function.name == function
            ]
            bill.containers = len(mine)
            bill.seconds += (now - last) * sum(c.alive for c in mine)
            last = now

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield bill
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
def test_hours_above_one_call_are_enforced_over_calls_and_commands(stage: Stage, endless: Checkout) -> None:
    limited = recipe(endless.folder, "prepare: {hours: 0.007}")  # 25 s, of which a call has 10
    words = ("run", "app.py::prepare", "--recipe", str(limited), "--run", "hours")
    with billed(stage, "prepare_cpu") as bill:
        process = stage.start("modal", *words, cwd=endless.folder, TUNELINE_CALL_HOURS=str(10 / 3600))
        try:
            out, _ = process.communicate(timeout=240)
        finally:
            process.kill()
    assert process.returncode == 1 and "raise compute.prepare.hours, now 0.007" in out
    assert out.count("a successor resumes") >= 1
    assert 20 < bill.seconds < 25.2 + bill.containers * STARTS_S
    (listed,) = (run for run in json.loads(stage.tuneline("runs", "ls", "--modal", "--json")) if run["run"] == "hours")
    assert listed["state"] == "failed" and "raise compute.prepare.hours, now 0.007" in listed["reason"]
    with billed(stage, "prepare_cpu") as again:
        out = endless.run("prepare", limited, "hours", code=1)
    assert again.containers == 0 and "raise compute.prepare.hours, now 0.007" in out


def test_a_preempted_call_has_only_the_time_that_is_left(stage: Stage, endless: Checkout) -> None:
    limited = recipe(endless.folder, "prepare: {hours: 0.007}")
    stage.ask("disturb/prepare_cpu", {"preempt": [6.0, 4.0, 4.0]})
    with billed(stage, "prepare_cpu") as bill:
        out = endless.run("prepare", limited, "preempted", code=1)
    assert out.count("was preempted") == 3 and "raise compute.prepare.hours, now 0.007" in out
    assert bill.containers == 4 and bill.seconds < 25.2 + 4 * STARTS_S / 3


def test_a_call_that_only_started_is_not_followed_by_another(stage: Stage, checkout: Checkout) -> None:
    begin = "    data = recipe.data\n    catalogue = load"
    checkout.change("stages/prepare/__init__.py", begin, f"    __import__('time').sleep(600)\n{begin}")
    words = ("run", "app.py::prepare", "--recipe", str(MICRO), "--run", "bare")
    out = stage.modal(*words, cwd=checkout.folder, code=1, TUNELINE_CALL_HOURS="0.004")
    assert "prepare could only start within a call of 0.004 h" in out and "a successor goes on" not in out


@pytest.mark.slow
def test_a_call_is_told_to_stop_so_early_that_its_step_and_its_checkpoint_fit(
    stage: Stage, checkout: Checkout, tmp_path: Path
) -> None:
    """Two seconds are granted, a step takes more than four: what was measured decides when the call is told to stop."""
    checkout.change("configs/compute.py", "STOP_S = 60.0", "STOP_S = 2.0")
    sampled = "        samples, loss_tokens = super()"
    checkout.change("stages/train/loop/trainer.py", sampled, f"        __import__('time').sleep(4)\n{sampled}")
    long = tmp_path / "long.yaml"
    long.write_text(MICRO.read_text().replace("max_steps: 10", "max_steps: 1000").replace("_steps: 2", "_steps: 500"))
    words = ("run", "app.py::train", "--recipe", str(long), "--run", "steps")
    process = stage.start("modal", *words, cwd=checkout.folder, TUNELINE_CALL_HOURS=str(60 / 3600))
    run = stage.volume("runs") / "steps"
    eventually(lambda: process.poll() is not None or len(starts(run)) > 1, 300)
    assert process.poll() is None, process.communicate()[0]
    first_call = events(run)[starts(run)[0] : starts(run)[1]]
    steps = [event["step"] for event in first_call if "loss" in event]
    assert [event["step"] for event in first_call if event["kind"] == "checkpoint"] == steps[-1:]
    stage.tuneline("runs", "cancel", "steps", "--modal")
    out, _ = process.communicate(timeout=120)
    assert "a successor resumes" in out and "took too long" not in out


def events(run: Path) -> list[dict[str, Any]]:
    return [event for event in read_events(run) if event["stage"] == "train"]


def starts(run: Path) -> list[int]:
    """Where among the events of training its calls began."""
    return [number for number, event in enumerate(events(run)) if event["kind"] == "started"]
