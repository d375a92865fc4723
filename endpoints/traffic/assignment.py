"""Which side of a rollout answers: sticky by unit, so that a growing share only adds units to the candidate."""

from dataclasses import dataclass
from hashlib import blake2b

from tuneline.configs.gateway import Route, Step, Target
from tuneline.endpoints.traffic.records import CurrentStep

BUCKETS = 10_000
SHARES: dict[Step, int] = {"baseline": 0, "shadow": 0, "5": 500, "25": 2500, "50": 5000, "100": BUCKETS}
"""Buckets of 10,000 that go to the candidate, by step."""


@dataclass(frozen=True)
class Assignment:
    """The side of a request's unit."""

    arm: str = "baseline"
    """`baseline` or `candidate`."""
    step: Step = "baseline"
    move: int = 0
    """Number of the move that led to this step; 0 before the first."""
    shadow: Target | None = None
    """The candidate, if it is asked too after the caller has its answer."""


def bucket(salt: str, unit: str) -> int:
    """Return a unit's bucket, 0 to 9,999: blake2b of salt and unit, so that it can be computed anywhere."""
    digest = blake2b(unit.encode("utf-8", "surrogatepass"), key=salt.encode()[:64], digest_size=8).digest()
    return int.from_bytes(digest, "big") % BUCKETS


def assign(route: Route, current: CurrentStep | None, unit: str) -> Assignment:
    """Return the assignment of a unit; without a record, to the baseline."""
    if current is None:
        return Assignment()
    arm = "candidate" if bucket(current.salt, unit) < SHARES[current.step] else "baseline"
    return Assignment(arm, current.step, current.number, route.candidate if current.step == "shadow" else None)
