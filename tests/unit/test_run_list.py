"""`tuneline runs ls`: each run has a true state, and what it is, did and cost is in one line."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.runs import MICRO, PASSED, make_run, remove
from tuneline.cli import app
from tuneline.core.errors import GateFailed, StageFailed
from tuneline.core.events import Events
from tuneline.core.locks import find_holder, pipeline_lock, run_lock, stop_holder
from tuneline.core.spending import FOLDER, Attempt
from tuneline.endpoints.promotion import promote
from tuneline.endpoints.run_list import list_runs
from tuneline.stages.runs.failures import recorded_failure
from tuneline.stages.runs.summary import RunSummary

REFUSED = PASSED | {"outcome": "fail", "passed": False, "unmet": ["unseen: 12 %, floor 90 %"]}


LOOKS_ALL_THE_TIME = """
import pathlib, sys
from tuneline.core.locks import find_holder
while True:
    find_holder(pathlib.Path(sys.argv[1]))
"""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("runs", "models", "policy"):
        monkeypatch.setenv(f"TUNELINE_{name.upper()}", str(tmp_path / name))
    return tmp_path / "runs"


def record(
    run: Path, stage: str, state: str, *, began: float = 1e9, seconds: float = 1800, usd: float | None = None
) -> None:
    (run / FOLDER).mkdir(exist_ok=True)
    attempt = {"stage": stage, "began": began, "seconds": seconds, "usd_per_hour": usd, "state": state}
    (run / FOLDER / f"{began}-{stage}.json").write_text(Attempt.model_validate(attempt).model_dump_json())


def begin_run(run: Path) -> Path:
    """A run whose training was begun."""
    make_run(run)
    remove(run, "convert", "evaluate")
    (run / "train/manifest.json").unlink()
    Events(run, "train").emit("metrics", step=4, steps=10, loss=1.0)
    return run


def only() -> RunSummary:
    (summary,) = list_runs()
    return summary


def test_what_a_run_is_what_it_did_and_what_it_cost(runs: Path) -> None:
    make_run(runs / "a")
    record(runs / "a", "train", "ended", began=1e9, usd=4.0)
    record(runs / "a", "train", "finished", began=1e9 + 4000, seconds=900, usd=8.0)
    promote("a", "router")
    summary = only()
    assert (summary.state, summary.gate, summary.promoted_as) == ("finished", "pass", ("router",))
    assert (summary.base, summary.hours, summary.usd) == ("tiny", 0.75, pytest.approx(4.0))
    assert summary.at.timestamp() == 1e9 + 4900 and summary.next_command == ""
    table = CliRunner(env={"COLUMNS": "120"}).invoke(app, ["runs", "ls"]).stdout
    assert all(text in table for text in ("promoted as", "router", "0.75", "4.00", "2001-09-09"))


def test_a_gate_that_said_no_and_a_stale_stage_are_no_success(runs: Path) -> None:
    make_run(runs / "a", gate=REFUSED)
    assert (only().state, only().gate) == ("refused by gate", "fail")
    (runs / "a/prepare/manifest.json").write_text("{}")
    assert only().state == "stale" and "damaged manifest" in only().reason


def test_a_live_process_makes_a_run_running_and_its_death_interrupted(runs: Path) -> None:
    run = begin_run(runs / "a")
    record(run, "train", "running")
    with pipeline_lock(run, "evaluate"):
        assert (only().state, only().progress) == ("running", "4/10 steps")
    with run_lock(run, "train"):
        assert only().state == "running"
    assert only().state == "interrupted" and only().next_command == "tuneline runs resume a"
    assert only().stages == {"prepare": "finished", "train": "interrupted", "convert": "open", "evaluate": "open"}


def test_who_looks_does_not_stop_who_starts(runs: Path) -> None:
    run = begin_run(runs / "a")
    (run / ".pipeline.lock").write_text("")
    with subprocess.Popen([sys.executable, "-c", LOOKS_ALL_THE_TIME, str(run)]) as process:
        for _ in range(200):
            with pipeline_lock(run, "evaluate"):
                pass
        process.kill()
    assert find_holder(run) is None


def test_a_failed_run_says_why_until_it_is_tried_again(runs: Path) -> None:
    run = begin_run(runs / "a")
    record(run, "train", "ended")
    with pytest.raises(StageFailed), recorded_failure(run):
        raise StageFailed("train diverged; lower train.learning_rate")
    assert (only().state, only().reason) == ("failed", "train diverged; lower train.learning_rate")
    assert "lower train.learning_rate" in CliRunner().invoke(app, ["runs", "ls"]).stdout.replace("\n", " ")
    with pytest.raises(KeyboardInterrupt), recorded_failure(run):
        assert only().state == "interrupted"
        raise KeyboardInterrupt
    with pytest.raises(GateFailed), recorded_failure(run):
        raise GateFailed("fail")
    assert only().state == "interrupted"


def test_a_run_that_was_only_prepared_is_partial(runs: Path) -> None:
    remove(make_run(runs / "a"), "train", "convert", "evaluate")
    record(runs / "a", "prepare", "finished")
    assert (only().state, only().stage) == ("partial", "prepare")
    assert "up to prepare" in CliRunner(env={"COLUMNS": "120"}).invoke(app, ["runs", "ls"]).stdout


def test_a_number_that_is_another_processes_is_not_stopped(runs: Path) -> None:
    run = begin_run(runs / "a")
    with subprocess.Popen(["sleep", "60"]) as innocent:
        with pipeline_lock(run, "evaluate"):
            text = (run / ".pipeline.lock").read_text().replace(f"process {os.getpid()} ", f"process {innocent.pid} ")
            (run / ".pipeline.lock").write_text(text)
            with pytest.raises(Exception, match="stop it there"):
                stop_holder(run)
        assert innocent.poll() is None
        innocent.kill()


def test_json_has_the_same_runs_for_machines(runs: Path) -> None:
    make_run(runs / "a")
    (row,) = json.loads(CliRunner().invoke(app, ["runs", "ls", "--json"]).stdout)
    assert row["run"] == "a" and row["stages"]["train"] == "finished" and row["usd"] is None
    assert {"where", "state", "progress", "base", "gate", "promoted_as", "at", "hours", "reason"} <= row.keys()


def test_a_command_that_is_killed_leaves_an_interrupted_run(runs: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(MICRO.model_dump_json())
    words = [sys.executable, "-m", "tuneline", "prepare", str(recipe), "--run", "killed"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + 120
        while not (list_runs() and only().state == "running" and only().stage == "prepare"):
            assert time.monotonic() < deadline and process.poll() is None
        process.kill()
    while only().state == "running":  # until the kernel has ended the stage's process, too
        assert time.monotonic() < deadline
    assert (only().state, only().stage) == ("interrupted", "prepare")


def test_a_run_is_listed_from_its_first_second_on(runs: Path) -> None:
    (runs / "a").mkdir(parents=True)
    (runs / "b").mkdir()
    record(runs / "a", "prepare", "running")
    assert (only().run, only().state, only().stage, only().base) == ("a", "interrupted", "prepare", "")
