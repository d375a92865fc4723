"""An OpenAI-compatible upstream that misbehaves by model name, on a real socket; and a gateway on another."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from tuneline.core.errors import NotFound
from tuneline.endpoints.engine_address import EngineAddress
from tuneline.endpoints.gateway.app import Gateway, build_app
from tuneline.endpoints.gateway.settings_file import SettingsFile
from tuneline.engines.server import free_port

WORDS = [f"w{number} " for number in range(60)]
ANSWER = "".join(WORDS)
USAGE = {"prompt_tokens": 21, "completion_tokens": 60, "total_tokens": 81}


@dataclass
class Attempt:
    """One request that reached the upstream."""

    at: float
    model: str
    body: dict[str, Any]
    headers: dict[str, str]
    cut_after_s: float | None = None
    """When the gateway closed the connection before the answer's end; None if it did not."""


@dataclass
class Connection:
    """What a fault writes to."""

    writer: asyncio.StreamWriter
    attempt: Attempt
    number: int
    """Of this model's attempts, from 1."""

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
        await self.writer.drain()

    async def error(self, status: int, code: str = "", **headers: str) -> None:
        error = {"error": {"message": f"fault {code or status}", "type": "x", "code": code or None}}
        await self.whole(status, error, **headers)

    async def whole(self, status: int, body: Any, **headers: str) -> None:
        content = json.dumps(body).encode()
        named = {"content-type": "application/json", "content-length": str(len(content)), "connection": "close"}
        lines = [f"{k.replace('_', '-')}: {v}" for k, v in (named | headers).items()]
        await self.send(f"HTTP/1.1 {status} X\r\n{chr(10).join(lines)}\r\n\r\n".encode(), content)

    async def begin(self) -> None:
        await self.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
            b"connection: close\r\n\r\n"
        )
        await self.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})

    async def event(self, data: dict[str, Any] | str) -> None:
        common = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": self.attempt.model}
        text = data if isinstance(data, str) else json.dumps(common | data)
        content = f"data: {text}\n\n".encode()
        await self.send(f"{len(content):x}\r\n".encode(), content, b"\r\n")

    async def tokens(self, first: int = 0, last: int = 60) -> None:
        for word in WORDS[first:last]:
            await self.event({"choices": [{"index": 0, "delta": {"content": word}}]})

    async def finish(self, *, done: bool = True) -> None:
        await self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if (self.attempt.body.get("stream_options") or {}).get("include_usage"):
            await self.event({"choices": [], "usage": USAGE})
        if done:
            await self.event("[DONE]")
        await self.send(b"0\r\n\r\n")

    async def answer(self) -> None:
        """Answer as a server should."""
        if self.attempt.body.get("stream"):
            await self.begin()
            await self.tokens()
            await self.finish()
            return
        message = {"role": "assistant", "content": ANSWER}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        await self.whole(200, {"id": "c", "object": "chat.completion", "model": self.attempt.model,
                               "choices": choices, "usage": USAGE})  # fmt: skip

    def reset(self) -> None:
        self.writer.transport.abort()


Fault = Callable[[Connection], Awaitable[None]]


@dataclass
class MisbehavingUpstream:
    """A server whose answer depends on the model's name; names without a fault answer well."""

    faults: dict[str, Fault]
    attempts: list[Attempt] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def of(self, model: str) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.model == model]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attempt = None
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            attempt = Attempt(time.monotonic(), body["model"], body, headers)
            self.attempts.append(attempt)
            connection = Connection(writer, attempt, len(self.of(body["model"])))
            fault = self.faults.get(body["model"], Connection.answer)
            work, closed = asyncio.ensure_future(fault(connection)), asyncio.ensure_future(reader.read(1))
            await asyncio.wait({work, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                attempt.cut_after_s = time.monotonic() - attempt.at
                work.cancel()
            closed.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
        except (ConnectionError, asyncio.IncompleteReadError):
            if attempt:
                attempt.cut_after_s = time.monotonic() - attempt.at
        finally:
            with contextlib.suppress(ConnectionError):
                writer.close()


@contextlib.contextmanager
def running(upstream: MisbehavingUpstream) -> Iterator[MisbehavingUpstream]:
    """Serve it from a thread."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(upstream.serve, "127.0.0.1", 0))
    upstream.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield upstream
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


class NoEngines:
    """Nothing is promoted."""

    ready = True

    def states(self) -> dict[str, str]:
        return {}

    def resolve(self, name: str) -> EngineAddress:
        raise NotFound(name)

    @contextlib.contextmanager
    def use(self, name: str) -> Iterator[EngineAddress]:
        yield self.resolve(name)


@contextlib.contextmanager
def serving(
    file: Path, engines: Any = None, *, with_keys: bool = False, port: int | None = None, **more: Any
) -> Iterator[tuple[str, Gateway]]:
    """Run a gateway with the settings of a file; yields its address and itself."""
    gateway = Gateway(SettingsFile(file), engines or NoEngines(), with_keys=with_keys, **more)
    port = port or free_port("127.0.0.1")
    server = uvicorn.Server(
        uvicorn.Config(build_app(gateway), port=port, log_level="error", timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline and thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}", gateway
    finally:
        server.should_exit = True
        thread.join(10)


def target(upstream: MisbehavingUpstream, model: str, **settings: Any) -> dict[str, Any]:
    """Return a target as the file has it, with short limits."""
    limits = {"first_token_s": 0.6, "stall_s": 0.6, "response_s": 0.6, "connect_s": 0.6}
    return {"url": upstream.url, "model": model} | limits | settings
