"""A child process dies with its parent and brings back what happened."""

import subprocess
from pathlib import Path

import pytest

from tuneline.core import child_processes, errors
from tuneline.core.child_processes import child_process, describe_exit, log_tail
from tuneline.core.errors import NotFound, TunelineError
from tuneline.core.paths import IMPORTED_FROM

MODULE = """
import sys
from tuneline.core.child_processes import report_outcome
from tuneline.core.errors import NotFound
def work():
    request = sys.stdin.read()
    if request == "fail":
        raise NotFound("it is gone")
    if request == "crash":
        raise ValueError("a bug")
    return {"request": request, "argument": sys.argv[1]}
sys.exit(report_outcome(work))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "library").mkdir()
    (tmp_path / "library/a_module.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "library"))
    return "a_module"


def run(module: str, request: str, log: Path) -> tuple[int, object]:
    with (
        log.open("wb") as output,
        child_process(module, "argument", request=request, stdout=output, stderr=subprocess.STDOUT) as child,
    ):
        return child.process.wait(), child.outcome()


def test_a_result_comes_back(module: str, tmp_path: Path) -> None:
    assert run(module, "ünï", tmp_path / "log") == (0, {"request": "ünï", "argument": "argument"})


def test_an_error_comes_back_as_it_was_raised(module: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="it is gone"):
        run(module, "fail", tmp_path / "log")


def test_a_crash_leaves_nothing_but_its_log(module: str, tmp_path: Path) -> None:
    assert run(module, "crash", tmp_path / "log") == (1, None)
    assert log_tail(tmp_path / "log", 1) == "ValueError: a bug"


@pytest.mark.parametrize("kind", TunelineError.__subclasses__())
def test_every_error_survives_its_record(kind: type[TunelineError]) -> None:
    error = errors.from_record(errors.to_record(kind("why")))
    assert type(error) is kind and str(error) == "why"


def test_how_a_process_ended_is_named() -> None:
    assert describe_exit(3) == "ended with exit code 3"
    assert describe_exit(-15) == "was killed by SIGTERM"
    assert describe_exit(-9) == "was killed by SIGKILL (usually out of memory)"


def test_the_current_folder_is_never_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ":/a:")
    assert child_processes.python_path() == f"{IMPORTED_FROM}:/a"
    assert child_processes.python_path([""]) == str(IMPORTED_FROM)
