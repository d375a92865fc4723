"""What answers of paid providers cost, by the gateway's request log: a line is written as each request ends."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

from tuneline.core.ledger import Place, Spent
from tuneline.endpoints.request_log.follower import LogFollower

PRICE = "gateway.yaml"


def read_request_costs(logs: Path, where: Place = "here") -> list[Spent]:
    """Return what the requests in the log folder `logs` cost, a record for each day and target that cost something."""
    sums: dict[tuple[date, str], float] = {}
    for day, target, usd in _read_costs(logs):
        sums[day, target] = sums.get((day, target), 0.0) + usd
    return [
        Spent(day, "endpoint", target, "requests", where, hours=0.0, usd=usd, price=PRICE)
        for (day, target), usd in sums.items()
    ]


def _read_costs(logs: Path) -> Iterator[tuple[date, str, float]]:
    """Yield day, target and USD of each request that cost something."""
    for record in LogFollower(logs).poll():
        with contextlib.suppress(ValueError, TypeError):
            if (usd := float(record.get("usd", 0.0))) > 0:
                at = datetime.fromisoformat(str(record.get("at"))).astimezone(UTC)
                yield at.date(), str(record.get("target", "")), usd
