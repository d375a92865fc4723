"""Why a run's last pipeline run failed: `RUN/failure.json`, written by whoever ran the stages, here or on Modal."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneline.core.errors import GateFailed, Locked, StaleArtifact, TunelineError
from tuneline.core.files import write_atomic

FILE = "failure.json"
NO_FAILURES = frozenset(error.__name__ for error in (GateFailed, Locked, StaleArtifact))
"""Errors after which the run is as it was: the gate is part of its evaluation, and the others were refused."""


class Failure(BaseModel):
    """How a pipeline run ended that did not get to its end by itself; the format of `failure.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    at: datetime
    kind: str
    """The error's class in `core.errors`."""
    message: str
    """What happened, and the next command."""


@contextlib.contextmanager
def recorded_failure(run: Path) -> Iterator[None]:
    """Write down why the block failed, if it does; what is there of an earlier attempt is removed."""
    forget_failure(run)
    try:
        yield
    except TunelineError as error:
        record_failure(run, type(error).__name__, str(error))
        raise


def forget_failure(run: Path) -> None:
    """Remove the record of an earlier failure: the run is being worked on again."""
    (run / FILE).unlink(missing_ok=True)


def record_failure(run: Path, kind: str, message: str) -> None:
    """Write down why a run failed; nothing if it is as it was, never began, or the disk takes no more."""
    if kind in NO_FAILURES:
        return
    failure = Failure(at=datetime.now(UTC), kind=kind, message=message)
    with contextlib.suppress(OSError):
        if run.exists():
            write_atomic(run / FILE, failure.model_dump_json(indent=1))


def read_failure(run: Path) -> Failure | None:
    """Return why the run's last pipeline run failed, or None if it did not, or its record is damaged."""
    with contextlib.suppress(OSError, ValidationError):
        return Failure.model_validate_json((run / FILE).read_bytes())
    return None
