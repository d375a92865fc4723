"""Hosts of models on this machine, as publishing meets them: HTTP servers that answer as each provider's API says.

A peer checks the key, keeps what it was sent by its SHA-256, and makes the faults that a test asks for.
"""

import hashlib
import json
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "key-of-the-peer-1234567890"
PIECE = 1 << 16


@dataclass
class Fault:
    """What happens instead of an answer to the next request whose `METHOD path` matches."""

    matches: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    breaks_after: int | None = None
    """Bytes of the request's body after which the connection is closed, in place of an answer."""


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    json: Any
    content: bytes
    """Of a small body."""
    sha256: str
    bytes: int


@dataclass
class Response:
    json: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Peer(ABC):
    """One host; a subclass answers its routes."""

    key: str | None = KEY
    small = 8 << 20
    """Larger bodies are hashed and not kept."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.url = ""

    @abstractmethod
    def answer(self, request: Request) -> Response: ...

    def needs_key(self, path: str) -> bool:
        return self.key is not None

    def calls(self) -> list[str]:
        return [f"{request.method} {request.path}" for request in self.requests]


def chat_answer(request: Request) -> Response:
    """An OpenAI chat completion that says what `local_answer` of the tests says of the last message."""
    text = say(request.json["messages"][-1]["content"])
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return Response(
        {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    )


def say(prompt: str) -> str:
    return f"the answer to {prompt}"


@contextmanager
def running(peer: Peer) -> Iterator[Peer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(peer))
    peer.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield peer
    finally:
        server.shutdown()
        server.server_close()


def _handler(peer: Peer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _serve(self) -> None:
            fault = self._take_fault()
            request = self._read(None if fault is None else fault.breaks_after)
            if request is None:
                self.close_connection = True
                self.connection.close()
                return
            peer.requests.append(request)
            if fault is not None:
                self._send(Response(fault.body, fault.status, fault.headers))
            elif peer.needs_key(request.path) and request.headers.get("authorization") != f"Bearer {peer.key}":
                self._send(Response({"error": {"message": "invalid key"}}, 401))
            else:
                self._send(peer.answer(request))

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _serve

        def _take_fault(self) -> Fault | None:
            for number, fault in enumerate(peer.faults):
                if re.match(fault.matches, f"{self.command} {self.path}"):
                    return peer.faults.pop(number)
            return None

        def _read(self, breaks_after: int | None) -> Request | None:
            remaining, digest, kept = int(self.headers.get("Content-Length") or 0), hashlib.sha256(), b""
            length = remaining
            while remaining:
                piece = self.rfile.read(min(PIECE, remaining))
                if not piece:
                    return None
                digest.update(piece)
                remaining -= len(piece)
                kept += piece if length <= peer.small else b""
                if breaks_after is not None and length - remaining >= breaks_after:
                    return None
            if breaks_after is not None:
                return None
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            kind = headers.get("content-type", "").partition(";")[0]
            is_json = kind == "application/json" or kind.endswith("+json")
            return Request(
                method=self.command,
                path=parts.path,
                query={name: values[0] for name, values in parse_qs(parts.query).items()},
                headers=headers,
                json=json.loads(kept) if is_json and kept else None,
                content=kept,
                sha256=digest.hexdigest(),
                bytes=length,
            )

        def _send(self, response: Response) -> None:
            body = response.json if isinstance(response.json, bytes) else json.dumps(response.json).encode()
            self.send_response(response.status)
            headers = {"Content-Type": "application/json"} | response.headers
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler
