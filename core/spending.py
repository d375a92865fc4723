"""What a run has cost so far, according to its events, and when `compute.max_cost_usd` is reached.

The price of an hour comes from whoever starts a stage: on Modal it is the recipe's container by
`configs/hardware.yaml`, on a rented machine `TUNELINE_USD_PER_HOUR`. Without a price nothing is counted and no limit
applies.
"""

import contextlib
import math
import os
from datetime import datetime
from pathlib import Path
from time import monotonic

from tuneline.core.errors import BadRequest, StageFailed
from tuneline.core.events import read_events

PRICE_VARIABLE = "TUNELINE_USD_PER_HOUR"


def read_usd_per_hour() -> float | None:
    """Return the price of an hour on this machine, or None if nobody is billed.

    Raises:
        BadRequest: the environment variable is not a number, or below 0.
    """
    price = os.environ.get(PRICE_VARIABLE)
    if not price:
        return None
    with contextlib.suppress(ValueError):
        if 0 <= (usd := float(price)) < math.inf:
            return usd
    raise BadRequest(f"{PRICE_VARIABLE}={price}: USD an hour, as in 2.99")


def sum_spent_usd(run: Path) -> float:
    """Return the cost of all attempts at all stages of a run.

    Each attempt counts from its `started` event to its last event, at the price in `started`.
    """
    total, began, last, price = 0.0, 0.0, 0.0, 0.0
    for event in read_events(run):
        at = datetime.fromisoformat(event["time"]).timestamp()
        if event["kind"] == "started":
            total += price * (last - began) / 3600
            began, price = at, event.get("usd_per_hour") or 0.0
        last = at
    return total + price * (last - began) / 3600


class Meter:
    """Counts a run's cost from its construction on, in addition to what the run had cost before.

    `limit_usd` is the recipe's limit, None for no limit; `price` is in USD an hour.

    Raises:
        StageFailed: the limit is reached already.
    """

    def __init__(self, limit_usd: float | None, run: Path, price: float | None) -> None:
        self.limit_usd, self.price = limit_usd, price or 0.0
        self._before, self._began = sum_spent_usd(run) if limit_usd and price else 0.0, monotonic()
        if self.over():
            raise self.error("nothing was started")

    @property
    def spent(self) -> float:
        """USD spent up to now."""
        return self._before + self.price * (monotonic() - self._began) / 3600

    def over(self) -> bool:
        """Return whether the limit is reached."""
        return bool(self.limit_usd and self.price and self.spent >= self.limit_usd)

    def error(self, consequence: str) -> StageFailed:
        """Return the error to raise when the limit is reached; `consequence` says what became of the stage."""
        return StageFailed(
            f"compute.max_cost_usd: {self.limit_usd:g}: {self.spent:.2f} USD are spent; {consequence}; "
            "the same command with a higher limit in the recipe goes on"
        )
