"""HTTP requests by the standard library, whose credentials reach the host that they are for and no other."""

import base64
import contextlib
import math
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from typing import Any, cast
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")
"""What counts as this machine."""
DEFAULT_PORTS = {"http": 80, "https": 443}
MOST_RETRY_AFTER_S = 86_400.0
"""A server that asks to wait for longer, or without end, asks to come back another day."""


def open_url(
    url: str, body: bytes | None = None, headers: dict[str, str] | None = None, *, timeout_s: float
) -> HTTPResponse:
    """Return the response to a GET, or to a POST of `body`; close it, or use it in `with`.

    User and password of the URL are sent as basic authentication. A redirect to another host takes no credentials.

    Raises:
        OSError: no response, one with an error's status, or not an address; the message has no part of the URL.
    """
    try:
        parts = urlsplit(url)
        login = {} if parts.username is None else {"Authorization": _basic(parts.username, parts.password or "")}
        address = urlunsplit(parts._replace(netloc=_host_and_port(parts)))
        request = urllib.request.Request(address, body, (headers or {}) | login)
        return cast(HTTPResponse, _OPENER.open(request, timeout=timeout_s))
    except (HTTPException, ValueError) as error:  # their messages quote a part of the address
        raise urllib.error.URLError(f"not a URL, or no HTTP server there ({type(error).__name__})") from None


def read_retry_after(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3), a day at most.

    None if there is none, or it is neither.
    """
    if not header:
        return None
    seconds = math.nan
    try:
        seconds = float(header)
    except ValueError:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
    return None if math.isnan(seconds) else min(max(0.0, seconds), MOST_RETRY_AFTER_S)


def without_credentials(url: str) -> str:
    """Return `url` without user, password and query; a program that does not need them may write it down."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=_host_and_port(parts), query="", fragment=""))


def append_path(url: str, name: str) -> str:
    """Return `url` with one more part of its path, before its query if it has one."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def is_loopback(url: str) -> bool:
    """Return whether `url` leads to this machine: `LOOPBACK_HOSTS`, whatever the port."""
    return origin(url)[1] in LOOPBACK_HOSTS


def origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port; what is no URL has an empty host."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return "", "", None


def _host_and_port(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: urllib.request.Request, *arguments: Any) -> urllib.request.Request | None:
        request = super().redirect_request(req, *arguments)
        if request and origin(request.full_url) != origin(req.full_url):
            request.remove_header("Authorization")
        return request


_OPENER = urllib.request.build_opener(_Redirects)
