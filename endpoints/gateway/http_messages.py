"""HTTP by ASGI: a request's body within limits, and responses that carry the request's id."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from tuneline.configs.gateway import Limits
from tuneline.core.user_files import MIB
from tuneline.endpoints.gateway.api_errors import ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Header = tuple[bytes, bytes]
JSON, EVENTS = b"application/json", b"text/event-stream; charset=utf-8"


class CallerLeft(Exception):
    """The caller closed the connection."""


async def read_body(receive: Receive, headers: dict[str, str], limits: Limits) -> bytes:
    """Return a request's body.

    Raises:
        ApiError: 413 if it is too large, 408 if it takes too long. CallerLeft: it never ended.
    """
    most = int(limits.body_mib * MIB)
    length = headers.get("content-length", "")
    too_large = ApiError(413, f"the body is larger than {limits.body_mib:g} MiB")
    if length.isdecimal() and int(length) > most:
        raise too_large
    pieces, size = [], 0
    try:
        async with asyncio.timeout(limits.body_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise CallerLeft
                pieces.append(message.get("body", b""))
                size += len(pieces[-1])
                if size > most:
                    raise too_large
                if not message.get("more_body"):
                    return b"".join(pieces)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {limits.body_s:g} s") from None


def replay_body(content: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read once more, and then what comes after it."""
    waiting = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive_again() -> Any:
        return waiting.pop() if waiting else await receive()

    return receive_again


def read_headers(scope: Scope) -> dict[str, str]:
    """Return a request's headers by their names in small letters."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


async def unless_left(work: Awaitable[None], receive: Receive) -> None:
    """Run `work` until it ends or the caller leaves; the body must have been read.

    Raises:
        CallerLeft: the caller left first; the work was cancelled.
    """
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(wait_until_left(receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise CallerLeft
        task.result()
    finally:
        for other in (left, task):
            if not other.done():
                other.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await other


async def wait_until_left(receive: Receive) -> None:
    """Return when the caller has closed the connection; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Sender:
    """Responses to one request."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self.request_id = send, request_id
        self.status = 0
        """0 until a response was begun."""

    async def begin(self, status: int, content_type: bytes, extra: Iterable[Header] = ()) -> None:
        self.status = status
        headers = [(b"content-type", content_type), (b"x-request-id", self.request_id.encode()), *extra]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def piece(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def whole(self, status: int, body: bytes, content_type: bytes = JSON, extra: Iterable[Header] = ()) -> None:
        await self.begin(status, content_type, [(b"content-length", str(len(body)).encode()), *extra])
        await self.end(body)

    async def error(self, error: ApiError) -> None:
        await self.whole(error.status, error.body(self.request_id), extra=error.headers)
