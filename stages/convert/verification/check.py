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
    is_required: bool = True
    """Whether the stage fails with it. Otherwise it is a warning: the file is whole, and evaluation decides."""
