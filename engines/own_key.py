"""Which servers get `TUNELINE_API_KEY`, the key of a server of our own: this machine and the one it was made for."""

from tuneline.core.environment import read_variable
from tuneline.core.redaction import redact_url
from tuneline.core.web_requests import is_loopback, origin

OWN_KEY = "TUNELINE_API_KEY"
OWN_URL = "TUNELINE_BASE_URL"
"""Environment variable with the address of the server that the key was made for, if that is not on this machine."""


def is_own_server(url: str) -> bool:
    """Return whether `url` is on this machine or at the server `TUNELINE_BASE_URL`."""
    return is_loopback(url) or origin(url) == origin(read_variable(OWN_URL))


def own_key(url: str) -> str | None:
    """Return `TUNELINE_API_KEY` if `url` is on this machine or at the server `TUNELINE_BASE_URL`, else None."""
    return (read_variable(OWN_KEY).strip() or None) if is_own_server(url) else None


def own_key_remedy(url: str) -> str:
    """Return how to have `TUNELINE_API_KEY` sent to `url`; empty if it is not set, or is sent there."""
    if not read_variable(OWN_KEY) or own_key(url):
        return ""
    return (
        f"{OWN_KEY}: is only sent to this machine and to the host in {OWN_URL}; if it is the key of this server, "
        f"`export {OWN_URL}={redact_url(url)}`"
    )
