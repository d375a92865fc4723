"""Requests to a hub: the token, retries, and refusals turned into messages that say what to do."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tuneline.core.environment import read_variable
from tuneline.core.errors import BadRequest, NotFound, StageFailed, TunelineError
from tuneline.stages.fetch.hub_source import HubSource

TOKEN_VARIABLE = "HF_TOKEN"
MAX_ATTEMPTS, FIRST_WAIT_S = 6, 1.0
"""Attempts in a row without a new byte; the wait doubles each time, half a minute in total."""
RESPONSE_TIMEOUT_S = 30.0
"""Timeout of a request for a repository's file list."""


def with_retries(request: Callable[[], Any]) -> Any:
    """Return the hub's response, retrying transient errors; a missing network is reported at once."""
    for failures in range(MAX_ATTEMPTS):
        try:
            return request()
        except Exception as error:
            has_network = hasattr(error, "response") or type(error).__name__ in ("ReadTimeout", "RemoteProtocolError")
            if failures == MAX_ATTEMPTS - 1 or not has_network or not is_transient(error):
                raise
        wait_before_retry(failures, threading.Event())
    raise AssertionError("unreachable")


@contextmanager
def explained_refusals(source: HubSource) -> Iterator[None]:
    """Turn the exceptions of the hub's client into errors that say what to do."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise _unreachable(source, error) from None
    except HfHubHTTPError as error:
        raise _refused(source, error) from None
    except Exception as error:
        if _is_network_error(error):
            raise _unreachable(source, error) from None
        raise


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    response = getattr(error, "response", None)
    if response is not None:
        return response.status_code in (408, 416, 429, 500, 502, 503, 504)
    return _is_network_error(error) or "Consistency check failed" in str(error)


def wait_before_retry(failures: int, stop: threading.Event) -> None:
    """Wait with exponential backoff and jitter; returns at once when `stop` is set."""
    stop.wait(FIRST_WAIT_S * 2**failures * random.uniform(0.75, 1.25))


def summarize_error(error: Exception) -> str:
    """Return what went wrong in a few words."""
    response = getattr(error, "response", None)
    return f"the hub answered {response.status_code}" if response is not None else type(error).__name__


def token() -> str | bool:
    """Return the token from the environment, or False."""
    # False, not None: None would also look for a token saved in the home folder.
    return read_variable(TOKEN_VARIABLE) or False


def endpoint() -> str | None:
    """Return the address of another hub than huggingface.co, if `HF_ENDPOINT` names one."""
    return read_variable("HF_ENDPOINT") or None


def _is_network_error(error: Exception) -> bool:
    # httpx2 in this version of the client, requests or httpx in others; all name their module.
    return type(error).__module__.partition(".")[0] in ("httpx2", "httpx", "httpcore", "requests")


def _unreachable(source: HubSource, error: Exception) -> TunelineError:
    where = endpoint() or "https://huggingface.co"
    offline = "HF_HUB_OFFLINE is set; unset it, or " if read_variable("HF_HUB_OFFLINE") else ""
    return StageFailed(
        f"base: {source.repo}: cannot reach {where} ({type(error).__name__}); {offline}run the same command "
        "again when online; complete files are kept.\nWithout network: copy the model's folder here and write "
        "`base: FOLDER`"
    )


def _refused(source: HubSource, error: Any) -> TunelineError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    status, page = error.response.status_code, f"https://huggingface.co/{source.repo}"
    set_token = f"`export {TOKEN_VARIABLE}=…` (make one at https://huggingface.co/settings/tokens)"
    if isinstance(error, RevisionNotFoundError):
        return NotFound(f"revision: {source.revision}: {source.repo} has no such commit; see {page}/commits/main")
    if isinstance(error, GatedRepoError):
        return BadRequest(f"base: {source.repo}: accept its licence at {page}, then {set_token} and run again")
    if status == 403:
        return BadRequest(
            f"base: {source.repo}: the token in {TOKEN_VARIABLE} may not read it (403); {set_token} that may"
        )
    if isinstance(error, RepositoryNotFoundError):  # the hub says 401 for what is private and for what is not there
        return NotFound(
            f"base: {source.repo}: no such model on the hub, or a private one; if it is private, {set_token}"
        )
    if status == 401:
        return BadRequest(f"base: {source.repo}: the token in {TOKEN_VARIABLE} is not valid (401); {set_token}")
    if status == 404:
        return NotFound(
            f"base: {source.repo}: no such model on the hub (404); look for it at https://huggingface.co/models"
        )
    return StageFailed(f"base: {source.repo}: the hub answered {status}; run the same command again later")
