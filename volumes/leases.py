"""One writer per run on Modal: a lease in a `modal.Dict`, renewed by a heartbeat and inherited by a retried call.

A lease is an entry put only if absent, which is the one atomic write a Dict has. Taking over an expired lease puts the
entry of the next number, so of two callers that try, one succeeds. The end of a lease is an entry of its own, which no
heartbeat can undo.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import modal

from tuneline.core.errors import Locked

LEASES = modal.Dict.from_name("tuneline-leases", create_if_missing=True)
HEARTBEAT_S = 30.0
EXPIRES_AFTER_S = 180.0
DONE, RELEASED = "done", "released"
"""How a lease ended: by its holder, or by whoever cancelled it."""


@dataclass
class Lease:
    """A held lease."""

    since: float
    """When the pipeline run began, in Unix seconds; its successors keep it."""
    handed_over: bool = False
    """Set this when a successor was started: the lease then outlives this call, until the successor renews it."""


def holder(run: str) -> dict[str, Any] | None:
    """Return who writes `run` now: `call` (a function call's id), `request` and `since`; None if nobody does."""
    number, entry = _newest(run)
    is_alive = entry is not None and time.time() - entry["beat"] < EXPIRES_AFTER_S
    return entry if is_alive and not LEASES.get(_end(run, number)) else None


@contextlib.contextmanager
def lease(run: str, ticket: str, call: str, request: str) -> Iterator[Lease]:
    """Hold the lease of `run` until the block ends; `ticket` identifies the pipeline run, whichever call executes it.

    `request` is what the pipeline run does, for `holder`.

    Raises:
        Locked: another call holds the lease, or this one was cancelled.
    """
    number, entry = _acquire(run, {"ticket": ticket, "call": call, "request": request})
    LEASES.put(_key(run, number), entry)
    LEASES.put(run, number)
    stop = threading.Event()
    heartbeat = threading.Thread(target=_renew, args=(run, number, entry, stop), daemon=True)
    heartbeat.start()
    held = Lease(entry["since"])
    try:
        yield held
    except KeyboardInterrupt:  # preempted: the same call is started again, and goes on with this lease
        held.handed_over = True
        raise
    finally:
        stop.set()
        heartbeat.join()
        if not held.handed_over:
            LEASES.put(_end(run, number), DONE)


def release(run: str) -> None:
    """End the lease of `run` at once, after its call was cancelled: the container may end late, or never."""
    number, entry = _newest(run)
    if entry:
        LEASES.put(_end(run, number), RELEASED)


def _acquire(run: str, owner: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """Return the number and entry of this call's lease: that of the same ticket, or a new one."""
    number, previous = _newest(run)
    now = time.time()
    entry = owner | {"since": now, "beat": now}
    if previous and previous["ticket"] == owner["ticket"]:  # a retried call, or a successor
        if LEASES.get(_end(run, number)) == RELEASED:
            raise Locked(f"run {run} was cancelled")
        LEASES.pop(_end(run, number), None)  # it was lost after its end, before it could tell its outcome
        return number, entry | {"since": previous["since"]}
    if (other := holder(run)) or not LEASES.put(_key(run, number + 1), entry, skip_if_exists=True):
        other = other or holder(run) or {"call": "another call"}
        raise Locked(f"run {run} is being written by {other['call']}; `tuneline runs cancel {run} --modal` stops it")
    if number:
        LEASES.pop(_key(run, number), None)
        LEASES.pop(_end(run, number), None)
    return number + 1, entry


def _newest(run: str) -> tuple[int, dict[str, Any] | None]:
    """Return the number and entry of the run's last lease; (0, None) if there was none."""
    number = int(LEASES.get(run, 0))
    while LEASES.get(_key(run, number + 1)) is not None:  # put, and not yet recorded under the run's own name
        number += 1
    return number, LEASES.get(_key(run, number)) if number else None


def _key(run: str, number: int) -> str:
    return f"{run}#{number}"


def _end(run: str, number: int) -> str:
    return f"{run}#{number} ended"


def _renew(run: str, number: int, entry: dict[str, Any], stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(modal.exception.Error):  # the next heartbeat may succeed
            LEASES.put(_key(run, number), entry | {"beat": time.time()})
