"""One micro run for all tests that need a finished line; about forty seconds on two cores.

Property tests look at the same examples every time, however long one takes: a failing gate says something of the code.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tuneline.core.paths import ROOT

# A shell ignores Ctrl-C for what it runs in the background; processes that tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("gate", deadline=None, derandomize=True)
settings.load_profile("gate")

MICRO = ROOT / "configs/recipes/micro.yaml"
CACHE = os.environ.get("TUNELINE_CACHE", str(ROOT / ".cache"))


def environment(home: Path) -> dict[str, str]:
    """Runs and models under `home`; llama.cpp from the cache that `make llama` filled."""
    return os.environ | {
        "TUNELINE_RUNS": str(home / "runs"),
        "TUNELINE_MODELS": str(home / "models"),
        "TUNELINE_CACHE": CACHE,
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
    }


def tuneline(home: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own and expect an exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "tuneline", *words],
        env=environment(home),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished micro run, called `whole`."""
    home = tmp_path_factory.mktemp("home")
    tuneline(home, "run", str(MICRO), "--run", "whole")
    return home
