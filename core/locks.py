"""One writer per run: a file lock, which the kernel releases when its holder dies."""

import contextlib
import fcntl
import getpass
import os
import re
import signal
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tuneline.core.errors import BadRequest, Locked, NotFound

FILE = ".lock"


@contextlib.contextmanager
def run_lock(run: Path, purpose: str) -> Iterator[None]:
    """Hold the run for writing until the block ends.

    The lock file names the holder: process, user, host, `purpose` and time.

    Raises:
        Locked: another process holds the run; the message names it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(f"{run} is being written by {_read_holder(run)}; wait for it, or use --run NEW") from None
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.truncate(0)
        file.write(f"process {os.getpid()} of {_user()} on {socket.gethostname()} ({purpose}, since {since})\n")
        file.flush()
        yield


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


def _read_holder(run: Path) -> str:
    return (run / FILE).read_text(encoding="utf-8").strip() or "a process that has just begun"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"
