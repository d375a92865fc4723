"""Calls that ended without an outcome of ours: what happened, where, and what to do next, in one message.

What Modal raises in whoever waits: modal.com/docs/guide/timeouts, /guide/retries (crashes), /guide/resources.
"""

import modal

from tuneline.configs.compute import Container

AGAIN = "run the same command again: it goes on from what is finished"
LOG = "its log, above or by `modal app logs`, says more"


def why(what: str, error: Exception, asked: Container | None = None) -> str:
    """`what` is a stage, or the walk, which has no `asked` of a recipe."""
    match error:
        case modal.exception.FunctionTimeoutError():
            return f"{what} took too long and was stopped: {error}; {_raise(what, asked, 'hours')}, and {AGAIN}"
        case modal.exception.InternalFailure():
            memory = _raise(what, asked, "memory_gib")
            return f"{what} was lost: {error}. If that was for want of memory, {memory}; {AGAIN}"
        case ImportError() | SyntaxError():
            add = "Its Function in app.py names its image: add what is missing there, or to FOLDERS in images/source.py"
            return f"{what} cannot start its container: {type(error).__name__}: {error}. {add}; then {AGAIN}"
        case modal.exception.Error():
            return f"{what} ended without a result: {str(error) or 'cancelled'}; {LOG}; {AGAIN}"
    return f"{what} failed in a way it should not; this is a bug: {type(error).__name__}: {error}; {LOG}"


def _raise(what: str, asked: Container | None, key: str) -> str:
    if asked is None:
        return f"raise what app.py gives {what}"
    return f"raise compute.{what}.{key}, now {getattr(asked, key):g}"
