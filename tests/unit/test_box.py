"""images/box.sh, with an ssh that stays on this machine: it copies, runs once, follows, and ends as the run ends."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tuneline.core.paths import ROOT

SSH = """#!/usr/bin/env bash
echo "$1" >> "$FAKE_HOME/hosts"; shift
cd "$FAKE_HOME" && HOME="$FAKE_HOME" exec bash -c "$*"
"""
TUNELINE = """#!/usr/bin/env bash
echo "$1 $2 at ${TUNELINE_USD_PER_HOUR:-nothing}" | tee -a calls
while [ ! -e finish ]; do sleep 0.05; done
exit 3
"""
RECIPE = "configs/recipes/micro.yaml"


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A home there, set up already, whose tuneline waits for a file and then ends with 3."""
    venv = tmp_path / "tuneline/.venv"
    for file, text in {tmp_path / "ssh": SSH, venv / "bin/tuneline": TUNELINE}.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    (venv / ".ready").touch()
    return tmp_path


def command(box: Path, *words: str) -> "subprocess.Popen[str]":
    environment = os.environ | {
        "PATH": f"{box}:{os.environ['PATH']}",
        "FAKE_HOME": str(box),
        "TUNELINE_USD_PER_HOUR": "2.99",
    }
    return subprocess.Popen(
        ["bash", str(ROOT / "images/box.sh"), *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_same_command_twice_runs_once_and_ends_as_it_ended_there(box: Path) -> None:
    first = command(box, "me@box", RECIPE, "train")
    calls, deadline = box / "tuneline/calls", time.monotonic() + 60
    while not calls.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    second = command(box, "me@box", RECIPE, "train")
    assert second.stdout
    before = next(line for line in second.stdout if "under way" in line)
    (box / "tuneline/finish").touch()
    told, again = first.communicate(timeout=60)[0], before + second.communicate(timeout=60)[0]
    assert first.returncode == second.returncode == 3, told + again
    assert f"train {RECIPE} at 2.99" in told and "ended with 3" in told
    assert calls.read_text() == f"train {RECIPE} at 2.99\n", again
    assert (box / "tuneline" / RECIPE).read_bytes() == (ROOT / RECIPE).read_bytes()
    assert set((box / "hosts").read_text().split()) == {"me@box"}


def test_without_a_recipe_it_says_how(box: Path) -> None:
    process = command(box, "me@box", "nowhere.yaml")
    assert "bash images/box.sh USER@HOST RECIPE [VERB]" in process.communicate()[0]
    assert process.returncode == 2
    (box / "mine.yaml").write_text("base: tiny")
    process = command(box, "me@box", str(box / "mine.yaml"))
    assert "not in this folder" in process.communicate()[0]
    assert process.returncode == 2 and not (box / "hosts").exists()
