"""One writer a run: a lock the kernel frees when its holder dies."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from stages.errors import Locked

FILE = ".lock"


@contextlib.contextmanager
def run_lock(run: Path, verb: str) -> Iterator[None]:
    """Hold the run for writing until the block ends.

    Raises:
        Locked: somebody else holds it; the message names the holder.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Locked(f"{run} is being written by {file.read().strip()}; wait for it, or use --run NEW") from None
        file.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()} ({verb}, since {since})")
        file.flush()
        yield
