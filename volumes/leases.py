"""One writer per run on Modal: a lease in a `modal.Dict`, renewed by a heartbeat and inherited by a retried call.

A lease is an entry put only if absent, which is the one atomic write a Dict has. Taking over an expired lease puts the
entry of the next number, so of two callers that try, one succeeds.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import modal

from tuneline.core.errors import Locked

LEASES = modal.Dict.from_name("tuneline-leases", create_if_missing=True)
HEARTBEAT_S = 30.0
EXPIRES_AFTER_S = 180.0


def holder(run: str) -> dict[str, Any] | None:
    """Return who writes `run` now: `call` (a function call's id) and `since` (Unix seconds); None if nobody does."""
    _, entry = _newest(run)
    is_alive = entry is not None and not entry["ended"] and time.time() - entry["beat"] < EXPIRES_AFTER_S
    return entry if is_alive else None


@contextlib.contextmanager
def lease(run: str, ticket: str, call: str) -> Iterator[None]:
    """Hold the lease of `run` until the block ends; `ticket` identifies the pipeline run, whichever call executes it.

    Raises:
        Locked: another call holds the lease.
    """
    number, entry = _acquire(run, ticket, call)
    LEASES.put(_key(run, number), entry)
    LEASES.put(run, number)
    stop = threading.Event()
    heartbeat = threading.Thread(target=_renew, args=(run, number, entry, stop), daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        stop.set()
        heartbeat.join()
        LEASES.put(_key(run, number), entry | {"ended": True})


def release(run: str) -> None:
    """End the lease of `run` at once, after its call was cancelled: the container may end late, or never."""
    number, entry = _newest(run)
    if entry:
        LEASES.put(_key(run, number), entry | {"ended": True})


def _acquire(run: str, ticket: str, call: str) -> tuple[int, dict[str, Any]]:
    """Return the number and entry of this call's lease: that of the same ticket, or a new one."""
    number, previous = _newest(run)
    now = time.time()
    entry = {"ticket": ticket, "call": call, "since": now, "beat": now, "ended": False}
    if previous and previous["ticket"] == ticket:  # a retried call, or a successor
        return number, entry | {"since": previous["since"]}
    if (other := holder(run)) or not LEASES.put(_key(run, number + 1), entry, skip_if_exists=True):
        other = other or holder(run) or {"call": "another call"}
        raise Locked(f"run {run} is being written by {other['call']}; `tuneline runs cancel {run} --modal` stops it")
    if number:
        LEASES.pop(_key(run, number), None)
    return number + 1, entry


def _newest(run: str) -> tuple[int, dict[str, Any] | None]:
    """Return the number and entry of the run's last lease; (0, None) if there was none."""
    number = int(LEASES.get(run, 0))
    while LEASES.get(_key(run, number + 1)) is not None:  # put, and not yet recorded under the run's own name
        number += 1
    return number, LEASES.get(_key(run, number)) if number else None


def _key(run: str, number: int) -> str:
    return f"{run}#{number}"


def _renew(run: str, number: int, entry: dict[str, Any], stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(modal.exception.Error):  # the next heartbeat may succeed
            LEASES.put(_key(run, number), entry | {"beat": time.time()})
