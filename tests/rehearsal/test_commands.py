"""Commands on a run that another command makes, or made until it was stopped; and the one writer of a run."""

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MICRO
from tests.rehearsal.conftest import Checkout, Stage, eventually

SLEEPS_ONCE = """
    from tuneline.volumes.leases import LEASES
    if LEASES.put("slept in {name}", True, skip_if_exists=True):
        time.sleep({seconds})
"""


def working(stage: Stage, function: str) -> list[Any]:
    """Containers of a function that work on an input now."""
    containers = list(stage.rehearsal.plane.state.containers.values())
    return [c for c in containers if c.alive and c.running and c.function.name == function]


def state_of(stage: Stage, run: str) -> str:
    (listed,) = (row for row in json.loads(stage.tuneline("runs", "ls", "--modal", "--json")) if row["run"] == run)
    return str(listed["state"])


def read_line(process: "subprocess.Popen[str]", text: str) -> str:
    assert process.stdout
    return next(line for line in process.stdout if text in line)


def test_a_command_waits_for_another_and_then_does_its_own(stage: Stage, checkout: Checkout) -> None:
    late = SLEEPS_ONCE.format(name="call both", seconds=30)  # longer than a command takes to start
    checkout.change("volumes/stage_container.py", "    if not is_awaited(", f"{late}    if not is_awaited(")
    first = checkout.start("prepare", MICRO, "both")
    read_line(first, "started as")
    eventually(lambda: working(stage, "pipeline_cpu"), 60)
    second = checkout.start("train", MICRO, "both")
    read_line(second, "is already running as")
    out, _ = second.communicate(timeout=240)
    assert second.returncode == 0 and "continuing with" in out and "both is finished up to train" in out
    assert (stage.volume("runs") / "both/train/manifest.json").exists()
    first.communicate(timeout=60)


def test_a_sweep_runs_side_by_side_with_its_costs_first(stage: Stage) -> None:
    words = ("--recipe", str(MICRO), "--set", "data.seed=1,2 data.validation_rows=8", "--until", "prepare")
    out = stage.modal("run", "app.py::sweep", *words)
    assert out.index("2 runs in parallel") < out.index("started as")
    waited = out.index("started as", out.index("started as") + 1)  # both are started before either is waited for
    assert waited < out.index("To compare them")
    recipes = [stage.volume("runs") / f"micro-seed-{seed}/prepare/manifest.json" for seed in (1, 2)]
    settings = [json.loads(file.read_text())["made_from"]["settings"] for file in recipes]
    assert [(each["data.seed"], each["data.validation_rows"]) for each in settings] == [(1, 8), (2, 8)]


@pytest.mark.parametrize("taken_up", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_preempted_while_it_starts_a_call_has_one_writer(stage: Stage, endless: Checkout, taken_up: bool) -> None:
    run = f"window-{taken_up}"
    spawn = "    return function.spawn(stage, recipe.to_json(), run, awaited, stop_s)\n"
    call = spawn.replace("return", "call =")
    slept = SLEEPS_ONCE.format(name=f"walk {run}", seconds=600)
    endless.change("volumes/stage_calls.py", spawn, f"{call}{slept}    return call\n")
    if not taken_up:
        late = SLEEPS_ONCE.format(name=f"call {run}", seconds=20)
        endless.change("volumes/stage_container.py", "    if not is_awaited(", f"{late}    if not is_awaited(")
    stage.modal("run", "app.py::fetch", "--recipe", str(MICRO), "--run", run)
    process = endless.start("prepare", MICRO, run, "--only")
    records = stage.volume("runs") / run / "spending"
    eventually(lambda: working(stage, "prepare_cpu"), 120)
    if taken_up:
        eventually(lambda: list(records.glob("*-prepare-*")), 60)
    [before] = working(stage, "pipeline_cpu")
    assert stage.ask("preempt/pipeline_cpu", post=True) == 1
    eventually(lambda: working(stage, "pipeline_cpu") not in ([], [before]), 60)
    eventually(lambda: list(records.glob("*-prepare-*")), 60)
    if not taken_up:
        eventually(lambda: len(working(stage, "prepare_cpu")) == 1, 60)
    assert state_of(stage, run) == "running"
    assert "is cancelled" in stage.tuneline("runs", "cancel", run, "--modal")
    process.communicate(timeout=120)
    assert state_of(stage, run) == "interrupted"
    assert len(list(records.glob("*-prepare-*"))) == 1  # one call has worked


@pytest.mark.parametrize("how", [pytest.param("interrupted", marks=pytest.mark.slow), "cancelled"])
def test_after_a_run_was_stopped_the_same_command_starts_anew(stage: Stage, checkout: Checkout, how: str) -> None:
    checkout.change(
        "stages/preflight.py", "    base, prepared, folder = open_base",
        "    import time\n\n    time.sleep(600)\n    base, prepared, folder = open_base",
    )  # fmt: skip
    process = checkout.start("preflight", MICRO, how, "--only")
    eventually(lambda: working(stage, "train_cpu"), 120)
    if how == "interrupted":
        process.send_signal(signal.SIGINT)
    else:
        stage.tuneline("runs", "cancel", how, "--modal")
    process.communicate(timeout=120)
    again = checkout.start("preflight", MICRO, how, "--only")
    assert "started as" in read_line(again, "as fc-")
    eventually(lambda: working(stage, "train_cpu") or again.poll() is not None, 120)
    assert again.poll() is None and working(stage, "train_cpu")
    stage.tuneline("runs", "cancel", how, "--modal")
    again.communicate(timeout=120)


def test_a_run_is_resumed_by_what_is_kept_of_it_there(stage: Stage, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(MICRO.read_text())
    stage.modal("run", "app.py::prepare", "--recipe", str(recipe), "--run", "kept")
    kept = stage.volume("runs") / "kept"
    before = json.loads((kept / "recipe.json").read_text())
    shutil.rmtree(kept / "prepare")
    recipe.unlink()
    out = stage.tuneline("runs", "resume", "kept", "--until", "prepare", "--modal")
    assert "kept is finished up to prepare" in out and "uploading" not in out
    assert (kept / "prepare/manifest.json").exists() and json.loads((kept / "recipe.json").read_text()) == before
    assert state_of(stage, "kept") == "partial"
