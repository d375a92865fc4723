"""How a call of a stage ends: a value rather than an exception, because Modal would retry an exception."""

from typing import Literal, TypedDict

from tuneline.core.environment import read_variable
from tuneline.core.errors import TunelineError, to_record

CALL_HOURS = float(read_variable("TUNELINE_CALL_HOURS", "23"))
"""A call ends at 24 h (modal.com/docs/guide/timeouts): `LONGEST_STOP_S` before that a stage is told to save a
checkpoint, and is called again."""


class Outcome(TypedDict):
    """How a stage's call ended."""

    state: Literal["finished", "unfinished", "failed"]
    """unfinished: its time ran out after a checkpoint; call it again."""
    kind: str
    """The error's class name in `tuneline.core.errors`; empty unless failed."""
    message: str


def succeeded(message: str = "") -> Outcome:
    """Return the outcome of a call that finished."""
    return {"state": "finished", "kind": "", "message": message}


def unfinished(message: str = "") -> Outcome:
    """Return the outcome of a call whose time ran out."""
    return {"state": "unfinished", "kind": "", "message": message}


def failed(error: TunelineError) -> Outcome:
    """Return the outcome of a call that raised `error`."""
    return {"state": "failed", **to_record(error)}
