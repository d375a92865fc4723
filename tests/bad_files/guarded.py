"""Reads a file in a child process of its own, with a limit on memory, and says what it took."""

import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.core.errors import TunelineError

SECONDS, BYTES = 10.0, 300 << 20
"""Most that reading one file may take, of a core's time and of memory beyond what is imported. A busy machine and the
imports of a first reading are included; the files here took from half a minute to forever, and gigabytes."""
LIMIT_BYTES = 3 << 30
"""At which the child is refused memory, so that a bomb does not take the machine's."""


@dataclass(frozen=True)
class Outcome:
    """What became of a call."""

    message: str
    """The message of its TunelineError, or "" if it returned."""
    exit_code: int
    seconds: float
    bytes: int


def run_guarded(call: Callable[[], object]) -> Outcome:
    """Return what the call did in a fork of this process; it must end with a TunelineError or return."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(call, sending))
    process.start()
    sending.close()
    try:
        if not receiving.poll(6 * SECONDS):
            raise AssertionError(f"no answer after {6 * SECONDS:g} s")
        outcome: Any = receiving.recv()
    except EOFError:
        process.join()
        raise AssertionError(f"it ended the process ({process.exitcode})") from None
    finally:
        process.kill()
        process.join()
    assert isinstance(outcome, Outcome), outcome
    assert outcome.seconds < SECONDS, f"{outcome.seconds:.1f} s: {outcome.message}"
    assert outcome.bytes < BYTES, f"{outcome.bytes / 2**20:.0f} MiB: {outcome.message}"
    return outcome


def _run(call: Callable[[], object], sending: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + LIMIT_BYTES,) * 2)
    before, started = _peak_bytes(), time.process_time()
    message, exit_code = "", 0
    try:
        call()
    except TunelineError as error:
        message, exit_code = str(error), error.exit_code
    except BaseException as error:
        sending.send(f"{type(error).__name__}: {str(error)[:200]}")
        return
    sending.send(Outcome(message, exit_code, time.process_time() - started, _peak_bytes() - before))


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
