"""One writer at a time of a run, or of the policy: a file lock, which the kernel releases when its holder dies."""

import contextlib
import fcntl
import getpass
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from tuneline.core.errors import BadRequest, Locked, NotFound

FILE = ".lock"
PIPELINE_FILE = ".pipeline.lock"
"""Held by the command that runs a run's stages, also between two of them; `FILE` by the stage that writes."""
WAIT_S = 30.0
"""How long a change waits for others: each takes milliseconds."""
LOOK_S = 0.5
"""How long a run's writer waits: whoever looks whether a run is held (`find_holder`) holds it for microseconds."""
POLL_EVERY_S = 0.005
_HOLDER = re.compile(r"process (?P<pid>\d+) of .* on (?P<host>\S+) \((?P<purpose>.*), since (?P<since>\S+)\)")


@dataclass(frozen=True)
class Holder:
    """Who holds a run, as its lock file says."""

    file: Path
    text: str
    """Process, user, host, purpose and time, for messages."""
    pid: int | None = None
    """None while the holder has not written its line yet."""
    host: str = ""
    purpose: str = ""


@contextlib.contextmanager
def run_lock(run: Path, purpose: str) -> Iterator[None]:
    """Hold the run for writing until the block ends.

    The lock file names the holder: process, user, host, `purpose` and time.

    Raises:
        Locked: another process holds the run; the message names it.
    """
    with _lock(run / FILE, purpose, LOOK_S, "wait until it ends, or use --run NEW"):
        yield


@contextlib.contextmanager
def pipeline_lock(run: Path, purpose: str) -> Iterator[None]:
    """Hold the run for the command that runs its stages, until the block ends.

    Raises:
        Locked: another process holds the run; the message names it.
    """
    with _lock(run / PIPELINE_FILE, purpose, LOOK_S, "wait until it ends, or use --run NEW"):
        yield


@contextlib.contextmanager
def change_lock(folder: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold `folder` until the block ends, from reading a file in it to replacing that file; waits for other holders.

    Raises:
        Locked: another process has held it for `wait_s` seconds; the message names it.
    """
    with _lock(folder / FILE, "change", wait_s, "end that process if it hangs, then run the same command again"):
        yield


@contextlib.contextmanager
def _lock(path: Path, purpose: str, wait_s: float, remedy: str) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + wait_s
        while not _try_lock(file, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise Locked(f"{path.parent} is being written by {_read_holder(path).text}; {remedy}")
            time.sleep(POLL_EVERY_S)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.truncate(0)
        file.write(f"process {os.getpid()} of {_user()} on {socket.gethostname()} ({purpose}, since {since})\n")
        file.flush()
        yield


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def find_holder(run: Path) -> Holder | None:
    """Return who runs the run's stages or writes it now, or None if nobody does; nothing is written."""
    for name in (PIPELINE_FILE, FILE):
        with contextlib.suppress(FileNotFoundError), (run / name).open(encoding="utf-8") as file:
            if not _try_lock(file, fcntl.LOCK_SH):
                return _read_holder(run / name)
    return None


def read_last_purpose(run: Path) -> str:
    """Return what the last command that ran the run's stages here was to do; "" if there was none."""
    with contextlib.suppress(FileNotFoundError):
        return _read_holder(run / PIPELINE_FILE).purpose
    return ""


def stop_holder(run: Path) -> str:
    """Send SIGTERM to the process that runs the run's stages, so that it saves and ends; return its description.

    Raises:
        NotFound: nobody holds the run. BadRequest: a process on another machine does, or it cannot be told which.
    """
    holder = find_holder(run)
    if holder is None:
        raise NotFound(f"{run.name}: no process is working on it")
    if holder.pid is None or holder.host != socket.gethostname() or not _has_open(holder.pid, holder.file):
        raise BadRequest(f"{run.name} is being written by {holder.text}; stop it there")
    os.kill(holder.pid, signal.SIGTERM)
    return holder.text


def _has_open(pid: int, file: Path) -> bool:
    """Return whether a process has a file open, or True where there is no /proc: a number alone may be another's."""
    descriptors = Path(f"/proc/{pid}/fd")
    if not Path("/proc/self/fd").exists():
        return True
    with contextlib.suppress(OSError):
        return any(os.path.realpath(descriptor) == os.path.realpath(file) for descriptor in descriptors.iterdir())
    return False


def _read_holder(path: Path) -> Holder:
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    if match := _HOLDER.fullmatch(text):
        return Holder(path, text, int(match["pid"]), match["host"], match["purpose"])
    return Holder(path, text or "a process that has just started")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"
