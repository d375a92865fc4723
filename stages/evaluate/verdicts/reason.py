"""One demand of the gate, with whether it is met."""

from collections.abc import Sequence
from dataclasses import dataclass

PASS, FAIL, INSUFFICIENT = "pass", "fail", "insufficient evidence"


@dataclass(frozen=True)
class Reason:
    """One demand, and a line that says what was measured."""

    met: bool | None
    """None where the evidence does not suffice to tell."""
    text: str


def outcome_of(reasons: Sequence[Reason]) -> str:
    """Return `FAIL` if a demand is not met, else `INSUFFICIENT` if one cannot be told, else `PASS`."""
    met = [reason.met for reason in reasons]
    return FAIL if False in met else INSUFFICIENT if None in met else PASS
