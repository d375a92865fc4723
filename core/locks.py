"""One writer a run: a lock the kernel frees when its holder dies."""

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
def run_lock(run: Path, holder: str) -> Iterator[None]:
    """Hold the run for writing until the block ends; `holder` says what for, beside user, process and host.

    Raises:
        Locked: somebody else holds it; the message names the holder.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(f"{run} is being written by {_told(run)}; wait for it, or use --run NEW") from None
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.truncate(0)
        file.write(f"process {os.getpid()} of {_user()} on {socket.gethostname()} ({holder}, since {since})\n")
        file.flush()
        yield


def stop_holder(run: Path) -> str:
    """Ask whoever holds the run to save and end; who that was.

    Raises:
        NotFound: nobody holds it. BadRequest: a process of another machine does.
    """
    try:
        with run_lock(run, "cancel"):
            pass
    except Locked:
        told = _told(run)
        found = re.match(r"process (\d+) of .* on (\S+) ", told)
        if not found or found[2] != socket.gethostname():
            raise BadRequest(f"{run.name} is being written by {told}; stop it there") from None
        os.kill(int(found[1]), signal.SIGTERM)
        return told
    raise NotFound(f"{run.name}: nobody is making it")


def _told(run: Path) -> str:
    return (run / FILE).read_text(encoding="utf-8").strip() or "a process that has just begun"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"
