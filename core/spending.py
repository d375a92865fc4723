"""What a run has taken and cost, written down beside it: a record of each attempt at a stage, in a file of its own.

    RUN/spending/2026-11-30T08-15-02-train-9f2c31.json   {"stage": "train", "began": …, "seconds": …, "usd_per_hour": …}

Only the attempt itself writes its file, again and again while it runs, so that the record survives whatever ends it:
a preemption, a killed machine, a restart. The price of an hour comes from whoever starts a stage: on Modal it is the
recipe's container by `configs/hardware.yaml`, on a rented machine `TUNELINE_USD_PER_HOUR`.
"""

import contextlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneline.core.environment import read_variable
from tuneline.core.errors import BadRequest, StageFailed

PRICE_VARIABLE = "TUNELINE_USD_PER_HOUR"
FOLDER = "spending"
RECORD_EVERY_S = 30.0
"""Seconds between two records of a running attempt."""


class Attempt(BaseModel):
    """One attempt at a stage; the format of a file in `RUN/spending`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    began: float
    """Unix time, in seconds."""
    seconds: float
    """Up to the last record."""
    usd_per_hour: float | None = None
    """None if nobody is billed."""
    state: Literal["running", "ended", "finished"] = "running"
    """finished: it ended with the stage's artifact. running: it was killed, or still runs."""
    publish_s: float = 0.0
    """The longest time it took to publish what it had written; on Modal, to commit a Volume."""

    @property
    def counted_s(self) -> float:
        """Seconds that count: of an attempt without an end, up to when its next record was due."""
        return self.seconds + (RECORD_EVERY_S if self.state == "running" else 0.0)


def read_usd_per_hour() -> float | None:
    """Return the price of an hour on this machine, or None if nobody is billed.

    Raises:
        BadRequest: the environment variable is not a number, or below 0.
    """
    price = read_variable(PRICE_VARIABLE)
    if not price:
        return None
    with contextlib.suppress(ValueError):
        if 0 <= (usd := float(price)) < math.inf:
            return usd
    raise BadRequest(f"{PRICE_VARIABLE}={price}: a price in USD per hour is expected, as in 2.99")


def read_attempts(run: Path) -> list[Attempt]:
    """Return the attempts at all stages of a run, oldest first.

    Raises:
        StageFailed: a record is damaged.
    """
    files = sorted((run / FOLDER).glob("*.json"))
    return sort_attempts(parse_attempt(str(file), file.read_bytes()) for file in files)


def sort_attempts(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Return attempts, oldest first."""
    return sorted(attempts, key=lambda attempt: attempt.began)


def parse_attempt(name: str, content: bytes) -> Attempt:
    """Return the attempt in the content of a file called `name`.

    Raises:
        StageFailed: it is damaged.
    """
    try:
        return Attempt.model_validate_json(content)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise StageFailed(
            f"{name}: no record of an attempt ({reason}); remove it to leave it out of the accounts"
        ) from None


def sum_hours(attempts: Sequence[Attempt], stage: str) -> float:
    """Return the hours of a stage's attempts since it was last finished: those that count against its `hours`."""
    hours = 0.0
    for attempt in attempts:
        if attempt.stage == stage:
            hours = 0.0 if attempt.state == "finished" else hours + attempt.counted_s / 3600
    return hours


def sum_usd(attempts: Sequence[Attempt]) -> float:
    """Return the cost of all attempts at all stages, at the price each had."""
    return sum(attempt.counted_s / 3600 * (attempt.usd_per_hour or 0.0) for attempt in attempts)


def sum_spent_usd(run: Path) -> float:
    """Return the cost of all attempts at all stages of the run in the folder `run`."""
    return sum_usd(read_attempts(run))
