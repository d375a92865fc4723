"""One writer a run on Modal: a lease in a `modal.Dict`, kept alive by a heartbeat, inherited by a retried call.

A lease is an entry put only if absent, which is the one atomic write a Dict has; taking over a dead holder's is putting
the entry of the next number, so of two that try, one does.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import modal

from tuneline.core.errors import Locked

LEASES = modal.Dict.from_name("tuneline-leases", create_if_missing=True)
BEAT_S = 30.0
DEAD_AFTER_S = 180.0


def holder(run: str) -> dict[str, Any] | None:
    """Who writes `run` now: `call` (a function call's id) and `since` (Unix seconds); None if nobody alive does."""
    _, entry = _newest(run)
    alive = entry is not None and not entry["ended"] and time.time() - entry["beat"] < DEAD_AFTER_S
    return entry if alive else None


@contextlib.contextmanager
def lease(run: str, ticket: str, call: str) -> Iterator[None]:
    """Hold `run` until the block ends; `ticket` names the walk, whichever function call does it now.

    Raises:
        Locked: another call holds it.
    """
    number, entry = _newest(run)
    now = time.time()
    mine = {"ticket": ticket, "call": call, "since": now, "beat": now, "ended": False}
    if entry and entry["ticket"] == ticket:
        mine["since"] = entry["since"]  # a retried call, or a successor, goes on
    else:
        if (other := holder(run)) or not LEASES.put(_key(run, number + 1), mine, skip_if_exists=True):
            other = other or holder(run) or {"call": "another call"}
            raise Locked(
                f"run {run} is being written by {other['call']}; `tuneline runs cancel {run} --modal` stops it"
            )
        if number:
            LEASES.pop(_key(run, number), None)
        number += 1
    LEASES.put(_key(run, number), mine)
    LEASES.put(run, number)
    over = threading.Event()
    beats = threading.Thread(target=_beat, args=(run, number, mine, over), daemon=True)
    beats.start()
    try:
        yield
    finally:
        over.set()
        beats.join()
        LEASES.put(_key(run, number), mine | {"ended": True})


def end(run: str) -> None:
    """Free `run` at once, when its walk was cancelled: its container may take a while to say so, or never do."""
    number, entry = _newest(run)
    if entry:
        LEASES.put(_key(run, number), entry | {"ended": True})


def _newest(run: str) -> tuple[int, dict[str, Any] | None]:
    """The number and entry of the run's last lease; (0, None) if there was none."""
    number = int(LEASES.get(run, 0))
    while LEASES.get(_key(run, number + 1)) is not None:  # put, and not yet written down under the run's own name
        number += 1
    return number, LEASES.get(_key(run, number)) if number else None


def _key(run: str, number: int) -> str:
    return f"{run}#{number}"


def _beat(run: str, number: int, mine: dict[str, Any], over: threading.Event) -> None:
    while not over.wait(BEAT_S):
        with contextlib.suppress(modal.exception.Error):  # the next beat may get through
            LEASES.put(_key(run, number), mine | {"beat": time.time()})
