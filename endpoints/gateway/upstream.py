"""One upstream: its own pool of connections, its breaker, and one request to it up to its first token.

A pool of its own, so that a hung upstream holds none of the others' connections. aiohttp: 0.15 ms CPU a request here,
httpx2 0.55 (docs/log.md).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from tuneline.configs.gateway import Target
from tuneline.endpoints.engine_address import EngineAddress
from tuneline.endpoints.gateway.breaker import Breaker
from tuneline.endpoints.gateway.dialects import ChatDialect, Usage
from tuneline.endpoints.gateway.event_stream import EventSplitter, MalformedEvent, StreamEvent
from tuneline.endpoints.gateway.failures import Failure, Interrupted

IDLE_S = 3.0
"""Idle connections are closed before servers close them, as uvicorn and llama-server do after 5 s."""
USAGE_WAIT_S = 2.0
"""After the end of an answer, for its usage and the sentinel: some servers send neither and keep the stream open."""
MAX_ANSWER_BYTES = 64 << 20
EVENT_STREAM = "text/event-stream"
HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


@dataclass(frozen=True)
class Answer:
    """A whole answer, or an error that is the caller's own."""

    status: int
    body: bytes
    content_type: str
    usage: Usage | None = None


@dataclass
class Stream:
    """A stream whose first token is there."""

    first: list[StreamEvent]
    splitter: EventSplitter
    """It may have a part of the next event."""
    rest: AsyncIterator[list[StreamEvent]] | None = None
    """The events after the first ones; raises Interrupted where it breaks off."""


@dataclass
class Upstream:
    """Connections to one target."""

    target: Target
    breaker: Breaker = field(default_factory=Breaker)
    in_flight: int = 0
    last_failure: str = ""
    _session: aiohttp.ClientSession | None = None
    _places: asyncio.Semaphore | None = None

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    @contextlib.asynccontextmanager
    async def ask(
        self, url: str, address: EngineAddress, payload: dict[str, Any], dialect: ChatDialect, left_s: float
    ) -> AsyncIterator[Answer | Stream]:
        """Send a request, and yield its whole answer, or its stream once the first token is there.

        The request is cancelled at the upstream when the block is left.

        Raises:
            Failure: no answer and no first token.
        """
        started = time.monotonic()
        async with self._place(left_s):
            body = orjson.dumps(payload)
            async with contextlib.AsyncExitStack() as stack:
                wait_s = self.target.first_token_s if payload.get("stream") else self.target.response_s
                async with _limit(min(wait_s, left_s)):
                    response = await self._send(url, address, body)
                    stack.callback(response.close)  # what was not read to its end is cancelled, not kept
                    answer = await self._first(response, dialect, payload)
                if isinstance(answer, Stream):
                    left_s -= time.monotonic() - started
                    choices = int(payload.get("n") or 1)
                    answer.rest = self._follow(response, answer, dialect, choices, time.monotonic() + left_s)
                yield answer

    @contextlib.asynccontextmanager
    async def _place(self, left_s: float) -> AsyncIterator[None]:
        self._places = self._places or asyncio.Semaphore(self.target.concurrency)
        if self._places.locked():
            try:
                await asyncio.wait_for(self._places.acquire(), min(self.target.connect_s, left_s))
            except TimeoutError:
                raise Failure("busy", "all its connections are in use", retry_after_s=1) from None
        else:
            await self._places.acquire()
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._places.release()

    async def _send(self, url: str, address: EngineAddress, body: bytes) -> aiohttp.ClientResponse:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.target.connect_s)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=True)
        try:
            # A redirect leads where nobody said that requests may go, except where it is known what is behind it.
            return await self._session.post(
                url, data=body, headers={**HEADERS, **address.headers}, allow_redirects=address.follows_redirects
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Failure("refused", f"no connection ({type(error).__name__})") from None
        except aiohttp.InvalidURL:
            raise Failure("refused", "not an address") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Failure("reset", f"the connection broke ({type(error).__name__})") from None

    async def _first(
        self, response: aiohttp.ClientResponse, dialect: ChatDialect, payload: dict[str, Any]
    ) -> Answer | Stream:
        """Return a whole answer, or a stream that was read up to its first token."""
        if response.status != 200:
            raise Failure.of_status(response.status, await _read(response), response.headers.get("retry-after"))
        if payload.get("stream") and response.content_type == EVENT_STREAM:
            splitter = EventSplitter()
            return Stream(await _read_first_events(response, splitter, dialect), splitter)
        body = await _read(response)
        try:
            parsed = orjson.loads(body)
        except ValueError:
            raise Failure("garbled", "its answer is not JSON") from None
        if payload.get("stream") or not dialect.is_answer(parsed):
            raise Failure("garbled", "its answer does not follow the API")
        return Answer(200, body, "application/json", dialect.usage(parsed))

    async def _follow(
        self,
        response: aiohttp.ClientResponse,
        stream: Stream,
        dialect: ChatDialect,
        choices: int,
        deadline: float,
    ) -> AsyncIterator[list[StreamEvent]]:
        """Yield the events after the first ones, as many at a time as came together, until the answer's end."""
        splitter, ended = stream.splitter, set[int]()
        done = any(event.is_done for event in stream.first)
        for event in stream.first:
            ended |= dialect.ended_choices(event.data or {})
        while not done:
            whole = len(ended) >= choices
            wait_s = min(USAGE_WAIT_S if whole else self.target.stall_s, deadline - time.monotonic())
            try:
                async with asyncio.timeout(wait_s):
                    piece = await response.content.readany()
                events = list(splitter.feed(piece) if piece else splitter.finish())
            except TimeoutError:
                if whole:
                    return
                raise Interrupted("silent", f"the stream was silent for {wait_s:.0f} s") from None
            except MalformedEvent as error:
                raise Interrupted("garbled", str(error)) from None
            except (aiohttp.ClientError, OSError):
                if whole:
                    return
                raise Interrupted("reset", "the stream broke off") from None
            for event in events:
                if event.data and event.data.get("error"):
                    raise Interrupted("error", "the upstream sent an error")
                if not dialect.is_event(event.data or {}):
                    raise Interrupted("garbled", "an event does not follow the API")
                ended |= dialect.ended_choices(event.data or {})
                done = done or event.is_done
            if events:
                yield events
            if not piece:
                done = True
        if len(ended) < choices:
            raise Interrupted("cut", "the stream ended before the answer did")


async def _read_first_events(
    response: aiohttp.ClientResponse, splitter: EventSplitter, dialect: ChatDialect
) -> list[StreamEvent]:
    """Return the events up to the one that brings the first token.

    Raises:
        Failure: the stream broke off, brought an error, or ended before that.
    """
    first: list[StreamEvent] = []
    while True:
        try:
            piece = await response.content.readany()
            events = list(splitter.feed(piece) if piece else splitter.finish())
        except MalformedEvent as error:
            raise Failure("garbled", str(error)) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Failure("reset", f"the stream broke off ({type(error).__name__})") from None
        for event in events:
            if event.data and event.data.get("error"):
                raise Failure.of_error_event(event.data["error"])
            if not dialect.is_event(event.data or {}):
                raise Failure("garbled", "an event does not follow the API")
        first += events
        if any(dialect.has_token(event.data or {}) for event in events):
            return first
        if not piece or any(event.is_done for event in events):
            raise Failure("garbled", "the stream ended without a token")


@contextlib.asynccontextmanager
async def _limit(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Failure("silent", f"no answer within {seconds:.0f} s") from None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    pieces, size = [], 0
    try:
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise Failure("garbled", "its answer is too long")
            pieces.append(piece)
    except (aiohttp.ClientError, OSError) as error:
        raise Failure("reset", f"the answer broke off ({type(error).__name__})") from None
    return b"".join(pieces)
