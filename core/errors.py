"""Every error a user can act on.

TunelineError
├── BadRecipe       a recipe, or a file it names, is wrong            exit 2
├── BadData         a dataset, grammar or catalogue is wrong          exit 2
├── BadRequest      a command's words are wrong (a run's name, …)     exit 2
├── StaleArtifact   a finished artifact was made from other settings  exit 2
├── Locked          somebody else writes this run                     exit 1
├── StageFailed     a stage ended without its artifact                exit 1
├── NotFound        a model, a run or a file is not there             exit 2
└── GateFailed      the evidence does not suffice                     exit 3
"""

from typing import TypedDict


class TunelineError(Exception):
    """Carries the file, the line or key, the value, and the next command to type. Anything else is a bug."""

    exit_code = 1


class BadRecipe(TunelineError, ValueError):
    """A recipe, or a file it names, is wrong."""

    exit_code = 2


class BadData(TunelineError, ValueError):
    """A dataset, grammar or catalogue is wrong."""

    exit_code = 2


class BadRequest(TunelineError, ValueError):
    """A command's words are wrong."""

    exit_code = 2


class StaleArtifact(TunelineError):
    """A finished artifact was made from other settings."""

    exit_code = 2


class NotFound(TunelineError, LookupError):
    """A model, a run or a file is not there."""

    exit_code = 2


class Locked(TunelineError):
    """Somebody else writes this run."""


class StageFailed(TunelineError, RuntimeError):
    """A stage ended without its artifact."""


class GateFailed(TunelineError):
    """The evidence does not suffice."""

    exit_code = 3


class ErrorRecord(TypedDict):
    """A TunelineError as JSON, between processes and machines."""

    kind: str
    """The name of its class."""
    message: str


def to_record(error: TunelineError) -> ErrorRecord:
    """Return an error as a record for another process."""
    return {"kind": type(error).__name__, "message": str(error)}


def from_record(record: ErrorRecord) -> TunelineError:
    """Return the error that another process recorded."""
    kinds: list[type[TunelineError]] = [TunelineError, *TunelineError.__subclasses__()]
    return {kind.__name__: kind for kind in kinds}[record["kind"]](record["message"])
