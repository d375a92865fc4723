"""Messages for calls that ended without an outcome of ours: what happened, where, and what to do next.

The exceptions that Modal raises in the caller: modal.com/docs/guide/timeouts, /guide/retries, /guide/resources.
"""

import modal

from tuneline.configs.compute import Container

RUN_AGAIN = "run the same command again: finished work is kept"
SEE_LOG = "see its log, above or with `modal app logs`"


def explain(caller: str, error: Exception, container: Container | None = None) -> str:
    """Return the message for a call that raised `error`.

    `caller` is a stage with its `container` of the recipe, or something else that app.py alone gives its hardware.
    """
    match error:
        case modal.exception.FunctionTimeoutError():
            remedy = describe_more_hours(caller, container) if container else _raise_limit(caller, None, "")
            return f"{caller} took too long and was stopped: {error}; {remedy}"
        case modal.exception.InternalFailure():
            remedy = _raise_limit(caller, container, "memory_gib")
            return f"{caller} was lost: {error}. If it ran out of memory, {remedy}; {RUN_AGAIN}"
        case ImportError() | SyntaxError():
            remedy = (
                "Its Function in app.py names its image: add what is missing there, or to FOLDERS in images/source.py"
            )
            return f"{caller} cannot start its container: {type(error).__name__}: {error}. {remedy}; then {RUN_AGAIN}"
        case modal.exception.Error():
            return f"{caller} ended without a result: {str(error) or 'cancelled'}; {SEE_LOG}; {RUN_AGAIN}"
    return f"{caller} failed unexpectedly; this is a bug: {type(error).__name__}: {error}; {SEE_LOG}"


def _raise_limit(caller: str, container: Container | None, key: str) -> str:
    if container is None:
        return f"raise what app.py gives {caller}"
    return f"raise compute.{caller}.{key}, now {getattr(container, key):g}"


def describe_more_hours(stage: str, container: Container) -> str:
    """Return what to do when a stage's hours are over."""
    if stage == "preflight":
        return "measure in a new run (--run NEW)"  # its hours are no setting of their own
    return f"raise compute.{stage}.hours, now {container.hours:g}, and {RUN_AGAIN}"
