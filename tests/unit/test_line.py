"""The order of the line, one writer a run, and a disk that is full."""

import errno
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from tuneline.configs.recipe_file import load_recipe
from tuneline.core.child_processes import Child
from tuneline.core.errors import BadRequest, Locked, StageFailed
from tuneline.core.locks import run_lock
from tuneline.core.meter import Limits, Meter
from tuneline.core.paths import ROOT
from tuneline.stages import fetch, stage_process
from tuneline.stages.line import ORDER, run_line
from tuneline.stages.stage_process import run_in_child, run_stage

MICRO = load_recipe(ROOT / "configs/recipes/micro.yaml")


@pytest.mark.parametrize(("until", "only", "walked"), [("train", False, ORDER[:3]), ("train", True, ("train",))])
def test_the_line_walks_up_to_a_stage_or_just_there(until: str, only: bool, walked: tuple[str, ...]) -> None:
    called: list[str] = []

    def call(stage: str) -> Any:
        called.append(stage)

    run_line(MICRO, until, call, only=only)
    assert tuple(called) == walked


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(BadRequest, match="not a stage"):
        run_line(MICRO, "deploy", lambda stage: pytest.fail("called"))


def test_ctrl_c_says_where_a_stage_ended_and_that_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage_process, "_follow", interrupt)
    events: list[dict[str, Any]] = []
    with pytest.raises(KeyboardInterrupt), Meter(tmp_path, "prepare", Limits(), None) as meter:
        run_in_child("prepare", MICRO, tmp_path, events.append, meter)
    assert [event["kind"] for event in events] == ["stopping", "stopped"]
    assert events[-1]["text"] == "interrupted; the same command continues"


def test_what_an_interrupted_training_says_is_passed_on() -> None:
    outcome = io.StringIO()
    text = "interrupted at step 4; the same command resumes"
    json.dump({"error": {"kind": "StageFailed", "message": text}}, outcome)
    assert stage_process._describe_interruption(Child(cast(Any, None), outcome)) == text


def test_a_second_writer_is_refused_with_the_holders_name(tmp_path: Path) -> None:
    with (
        run_lock(tmp_path, "train"),
        pytest.raises(Locked, match=r"process \d+ of .* \(train"),
        run_lock(tmp_path, "x"),
    ):
        pytest.fail("two writers")


def test_the_lock_of_a_killed_holder_is_free(tmp_path: Path) -> None:
    code = (
        "import os, signal, pathlib, sys; from tuneline.core.locks import run_lock\n"
        "with run_lock(pathlib.Path(sys.argv[1]), 'train'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert (tmp_path / ".lock").read_text().startswith("process")
    with run_lock(tmp_path, "train"):
        pass


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "x"), RuntimeError("I/O error: No space left on device")])
def test_a_full_disk_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(*_: Any) -> None:
        raise error

    monkeypatch.setattr(fetch, "fetch", full)
    with pytest.raises(StageFailed, match="the disk of .* is full"):
        run_stage("fetch", MICRO, tmp_path)
