"""Calls of which exactly one does the work, whoever is preempted between starting a call and noting its id.

First an intent, a token, is put in the Dict; then the call is started with it; then whoever is first, the caller or the
call itself, puts the call's id under the token. To write only if absent is the one atomic write of a Dict, so that a
caller that is started again either finds the id or withdraws the intent before the call can take it up. A call does its
work only if its own id is under its token, and its token is still the awaited one.
"""

import contextlib
import uuid
from collections.abc import Callable
from typing import Any

import modal

from tuneline.core.errors import StageFailed
from tuneline.volumes.leases import LEASES

WITHDRAWN = "withdrawn"
UNREACHABLE = (modal.exception.ConnectionError, modal.exception.ServiceError, modal.exception.InternalError)
"""What the client raises for Modal itself; an error of the call is what the call raised, or another of Modal's."""


def find_or_start(key: str, start: Callable[[str], "modal.FunctionCall[Any]"]) -> "modal.FunctionCall[Any]":
    """Return the call that is awaited for `key`, or the one that `start(awaited)` starts.

    A call that died (cancelled, or stopped with its app) is not awaited any more.
    """
    call = find_awaited(key)
    if call and not has_died(call):
        return call
    token = uuid.uuid4().hex
    LEASES.put(_intent(key), token)
    call = start(f"{token} {key}")
    LEASES.put(_claim(token), call.object_id, skip_if_exists=True)
    return call


def find_awaited(key: str) -> "modal.FunctionCall[Any] | None":
    """Return the call that was started for `key` and whose end nobody has noted; None if there is none.

    An intent that no call has taken up is withdrawn: a call that comes late finds that out.
    """
    token = LEASES.get(_intent(key))
    if token is None:
        return None
    if LEASES.put(_claim(token), WITHDRAWN, skip_if_exists=True):
        LEASES.pop(_intent(key), None)
        return None
    call_id = LEASES.get(_claim(token))
    return None if call_id in (None, WITHDRAWN) else modal.FunctionCall.from_id(call_id)


def has_died(call: "modal.FunctionCall[Any]") -> bool:
    """Return whether a call has ended without an outcome. Raises StageFailed if Modal cannot be asked."""
    return _read_state(call) == "died"


def has_ended(call: "modal.FunctionCall[Any]") -> bool:
    """Return whether a call has ended, with or without an outcome; `unfinished` is no end, a successor goes on.

    Raises StageFailed if Modal cannot be asked.
    """
    return _read_state(call) not in ("running", "unfinished")


def _read_state(call: "modal.FunctionCall[Any]") -> str:
    """Return "running", "died", or the state that the call's outcome gives.

    A connection that fails says nothing of the call: taken for its death, it would start a second writer.
    """
    try:
        outcome = call.get(timeout=0)
    except TimeoutError:  # the builtin one: it runs, or waits for a container
        return "running"
    except UNREACHABLE as error:
        raise StageFailed(
            f"Modal could not be asked whether call {call.object_id} runs ({error}): try again"
        ) from error
    except Exception:
        return "died"
    return str(outcome["state"])


def is_awaited(awaited: str) -> bool:
    """Return, in a call, whether it is the one that its caller waits for; `awaited` is what `start` was given."""
    token, _, key = awaited.partition(" ")
    call_id = modal.current_function_call_id()
    LEASES.put(_claim(token), call_id, skip_if_exists=True)
    return bool(LEASES.get(_claim(token)) == call_id and LEASES.get(_intent(key)) == token)


def forget(key: str) -> None:
    """Note that the end of the call for `key` was seen."""
    if token := LEASES.pop(_intent(key), None):
        LEASES.pop(_claim(token), None)


def cancel_awaited(key: str, *, terminate: bool = True) -> None:
    """Cancel the call for `key`, if there is one, and with `terminate` its container; it is not awaited any more."""
    call = find_awaited(key)
    LEASES.pop(_intent(key), None)  # its claim stays: a container that starts late must find it
    if call:
        with contextlib.suppress(modal.exception.NotFoundError):
            call.cancel(terminate_containers=terminate)


def key_of_successor(call_id: str) -> str:
    """Return the key of the call that goes on with a pipeline run where the call `call_id` ended."""
    return f"successor of {call_id}"


def _intent(key: str) -> str:
    return f"call for {key}"


def _claim(token: str) -> str:
    return f"call by {token}"
