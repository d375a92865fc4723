"""What a run has cost so far, by its events; and when `compute.max_cost_usd` is reached.

Who starts a stage tells what an hour there costs: on Modal the recipe's container by `configs/hardware.yaml`, on a
rented machine `TUNELINE_USD_PER_HOUR`. Without a price nothing is counted and nothing stops.
"""

import os
from datetime import datetime
from pathlib import Path
from time import monotonic

from tuneline.core.errors import BadRequest, StageFailed
from tuneline.core.events import read_events

PRICE = "TUNELINE_USD_PER_HOUR"


def usd_per_hour() -> float | None:
    """Of this machine; None if nobody is billed.

    Raises:
        BadRequest: the environment has no number.
    """
    told = os.environ.get(PRICE)
    if not told:
        return None
    try:
        return float(told)
    except ValueError:
        raise BadRequest(f"{PRICE}={told}: USD an hour, as in 2.99") from None


def spent_usd(run: Path) -> float:
    """Of every attempt at every stage, from its `started` to its last event, at the price that stood in `started`."""
    total, began, last, price = 0.0, 0.0, 0.0, 0.0
    for event in read_events(run):
        at = datetime.fromisoformat(event["time"]).timestamp()
        if event["kind"] == "started":
            total += price * (last - began) / 3600
            began, price = at, event.get("usd_per_hour") or 0.0
        last = at
    return total + price * (last - began) / 3600


class Meter:
    """Runs from now on, beside what was spent before; `over()` once `most`, the recipe's limit in USD, is reached.

    Raises:
        StageFailed: it is reached already.
    """

    def __init__(self, most: float | None, run: Path, price: float | None) -> None:
        self.most, self.price = most, price or 0.0
        self._before, self._began = spent_usd(run) if self.most and price else 0.0, monotonic()
        if self.over():
            raise self.error("nothing was started")

    @property
    def spent(self) -> float:
        return self._before + self.price * (monotonic() - self._began) / 3600

    def over(self) -> bool:
        return bool(self.most and self.price and self.spent >= self.most)

    def error(self, what: str) -> StageFailed:
        """What is raised when the limit is reached; `what` became of the stage."""
        return StageFailed(
            f"compute.max_cost_usd: {self.most:g}: {self.spent:.2f} USD are spent; {what}; "
            "the same command with a higher limit in the recipe goes on"
        )
