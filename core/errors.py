"""Every error that a user can act on, and its form between processes.

TunelineError
├── BadRecipe       a recipe, or a file it names, is wrong             exit 2
├── BadData         a dataset, grammar or catalogue is wrong           exit 2
├── BadRequest      an argument of a command is wrong (a run's name)   exit 2
├── StaleArtifact   a finished artifact was made from other settings   exit 2
├── Locked          another process writes this run                    exit 1
├── StageFailed     a stage ended without its artifact                 exit 1
├── NotFound        a model, a run or a file does not exist            exit 2
└── GateFailed      the evidence is not sufficient                     exit 3
"""

import errno
from typing import TypedDict

from tuneline.core.redaction import redact


class TunelineError(Exception):
    """Its message names the file, the line or key, the value, and the next command to type. Anything else is a bug.

    Credentials in it, as in a server's address or in what a server answered, are masked.
    """

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(redact(str(message)))


class BadRecipe(TunelineError, ValueError):
    """A recipe, or a file it names, is wrong."""

    exit_code = 2


class BadData(TunelineError, ValueError):
    """A dataset, grammar or catalogue is wrong."""

    exit_code = 2


class BadRequest(TunelineError, ValueError):
    """An argument of a command is wrong."""

    exit_code = 2


class StaleArtifact(TunelineError):
    """A finished artifact was made from other settings."""

    exit_code = 2


class NotFound(TunelineError, LookupError):
    """A model, a run or a file does not exist."""

    exit_code = 2


class Locked(TunelineError):
    """Another process writes this run."""


class StageFailed(TunelineError, RuntimeError):
    """A stage ended without its artifact."""


class GateFailed(TunelineError):
    """The evidence is not sufficient."""

    exit_code = 3


REMEDIES = {
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "change its permissions, or set TUNELINE_RUNS, TUNELINE_MODELS and the like to folders you can write",
    ),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space and run the same command again"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files, as with `ulimit -n 4096`"),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EISDIR, errno.ELOOP), "replace it by a file or a folder, whichever is expected"
    ),
    errno.ENAMETOOLONG: "use shorter names",
    errno.EIO: "the disk or its connection may be broken; see the system log",
}
"""What to do about errors of the system that are no bugs of ours, by number."""


def explain_os_error(error: OSError) -> str | None:
    """Return a message for an error that the machine is the cause of, or None if it may be a bug."""
    if remedy := REMEDIES.get(error.errno or 0):
        return f"{error.filename or 'a file'}: {error.strerror}: {remedy}"
    if isinstance(error, FileNotFoundError) and error.filename is None:  # of os.getcwd
        return "the current folder no longer exists: change to another"
    return None


class ErrorRecord(TypedDict):
    """A TunelineError as JSON, to pass it to another process or machine."""

    kind: str
    """The name of its class."""
    message: str


def to_record(error: TunelineError) -> ErrorRecord:
    """Return an error as a record."""
    return {"kind": type(error).__name__, "message": str(error)}


def from_record(record: ErrorRecord) -> TunelineError:
    """Return the error of a record, for the caller to raise."""
    kinds: list[type[TunelineError]] = [TunelineError, *TunelineError.__subclasses__()]
    return {kind.__name__: kind for kind in kinds}[record["kind"]](record["message"])
