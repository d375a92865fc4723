"""The result of a comparison."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One comparison of one file with the model that was trained."""

    check: str
    """What was compared."""
    file: str
    passed: bool
    detail: str
