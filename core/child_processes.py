"""Python modules run in child processes that die with their parent and bring back a result or an error.

The parent starts a module with `child_process`, waits for it, and asks for its `outcome`. The module's main function
calls `report_outcome`.
"""

import contextlib
import ctypes
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tuneline.core import errors
from tuneline.core.environment import read_variable
from tuneline.core.errors import TunelineError
from tuneline.core.paths import IMPORTED_FROM

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when its parent dies."""
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None)
"""None except on Linux. Looked up at import, because as little as possible is done between fork and exec."""


@dataclass(frozen=True)
class Child:
    """A started child process and the file in which it leaves its outcome."""

    process: subprocess.Popen[bytes]
    _outcome: IO[str]

    def outcome(self) -> Any:
        """Return the result of a child that has ended, or None if it left none.

        Raises:
            TunelineError: what the child's work raised, with the same class and message.
        """
        self._outcome.seek(0)
        text = self._outcome.read()
        if not text:
            return None
        outcome = json.loads(text)
        if "error" in outcome:
            raise errors.from_record(outcome["error"])
        return outcome["result"]


@contextlib.contextmanager
def child_process(
    module: str,
    *arguments: str,
    request: str,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    environment: Mapping[str, str] | None = None,
) -> Iterator[Child]:
    """Start `python -m module` with `request` as its standard input and yield it as a `Child`.

    The caller waits for the child's end inside the block. `environment` defaults to `tuneline_environment()`.
    """
    # Files without names: a second command on the same run, refused or not, cannot touch the request or the outcome.
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as request_file,
        tempfile.TemporaryFile("w+", encoding="utf-8") as outcome,
    ):
        request_file.write(request)
        request_file.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, str(outcome.fileno())],
            stdin=request_file,
            stdout=stdout,
            stderr=stderr,
            env=tuneline_environment() if environment is None else environment,
            pass_fds=[outcome.fileno()],
            preexec_fn=functools.partial(bind_to_parent, os.getpid()),
        )
        yield Child(process, outcome)


def report_outcome(work: Callable[[], Any]) -> int:
    """Call `work` in a child process, leave its result or TunelineError for the parent, and return the exit code."""
    with open(int(sys.argv[-1]), "w", encoding="utf-8", closefd=False) as outcome:
        try:
            outcome.write(json.dumps({"result": work()}))
        except TunelineError as error:
            outcome.write(json.dumps({"error": errors.to_record(error)}))
            return error.exit_code
    return 0


def bind_to_parent(
    parent: int, death_signal: signal.Signals = signal.SIGKILL, *, ignore_interrupt: bool = True
) -> None:
    """Have `death_signal` sent to this process when `parent` dies: a child's `preexec_fn`, or the first thing it calls.

    More exactly: when the thread that started the child ends. Linux only; elsewhere only the parent's `finally` stops
    the child. The default is SIGKILL so that the same command can be given again at once. A Ctrl-C in the terminal is
    left to the parent, unless `ignore_interrupt` is False.
    """
    if ignore_interrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _PRCTL:
        _PRCTL(PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)


def tuneline_environment() -> dict[str, str]:
    """Return this process's environment, changed so that `tuneline` is importable and the current folder is not."""
    return os.environ | {"PYTHONPATH": python_path(), "PYTHONSAFEPATH": "1"}


def python_path(folders: Iterable[str] | None = None) -> str:
    """Return a PYTHONPATH with the folder of `tuneline` first, then `folders` (default: this process's PYTHONPATH)."""
    if folders is None:
        folders = read_variable("PYTHONPATH").split(os.pathsep)
    return os.pathsep.join(filter(None, (str(IMPORTED_FROM), *folders)))  # an empty entry is the current folder


def describe_exit(code: int) -> str:
    """Return how a process ended, to follow its name in a sentence; `code` is its `returncode`."""
    if code >= 0:
        return f"ended with exit code {code}"
    hint = " (usually out of memory)" if code == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{hint}"


def log_tail(log: Path, count: int) -> str:
    """Return the last `count` lines of a log file."""
    return last_lines(log.read_text(encoding="utf-8", errors="replace"), count)


def last_lines(text: str, count: int) -> str:
    """Return the last `count` lines of what a process printed."""
    return "\n".join(text.splitlines()[-count:])
