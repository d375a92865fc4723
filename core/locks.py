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
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from tuneline.core.errors import BadRequest, Locked, NotFound

FILE = ".lock"
WAIT_S = 30.0
"""How long a change waits for others: each takes milliseconds."""
POLL_EVERY_S = 0.005


@contextlib.contextmanager
def run_lock(run: Path, purpose: str) -> Iterator[None]:
    """Hold the run for writing until the block ends.

    The lock file names the holder: process, user, host, `purpose` and time.

    Raises:
        Locked: another process holds the run; the message names it.
    """
    with _lock(run, purpose, 0.0, "wait for it, or use --run NEW"):
        yield


@contextlib.contextmanager
def change_lock(folder: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold `folder` until the block ends, from reading a file in it to replacing that file; waits for other holders.

    Raises:
        Locked: another process has held it for `wait_s` seconds; the message names it.
    """
    with _lock(folder, "change", wait_s, "end that process if it hangs, then run the same command again"):
        yield


@contextlib.contextmanager
def _lock(folder: Path, purpose: str, wait_s: float, remedy: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + wait_s
        while not _try_lock(file):
            if time.monotonic() >= deadline:
                raise Locked(f"{folder} is being written by {_read_holder(folder)}; {remedy}")
            time.sleep(POLL_EVERY_S)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.truncate(0)
        file.write(f"process {os.getpid()} of {_user()} on {socket.gethostname()} ({purpose}, since {since})\n")
        file.flush()
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def stop_holder(run: Path) -> str:
    """Send SIGTERM to the process that holds the run, so that it saves and ends; return its description.

    Raises:
        NotFound: nobody holds the run. BadRequest: a process on another machine does.
    """
    try:
        with run_lock(run, "cancel"):
            pass
    except Locked:
        holder = _read_holder(run)
        match = re.match(r"process (\d+) of .* on (\S+) ", holder)
        if not match or match[2] != socket.gethostname():
            raise BadRequest(f"{run.name} is being written by {holder}; stop it there") from None
        os.kill(int(match[1]), signal.SIGTERM)
        return holder
    raise NotFound(f"{run.name}: nobody is making it")


def _read_holder(folder: Path) -> str:
    return (folder / FILE).read_text(encoding="utf-8").strip() or "a process that has just begun"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"
