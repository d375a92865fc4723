"""Requests that are no requests: the gateway answers each with an error of the client, never with one of its own."""

import json
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fastapi.testclient import TestClient

from tuneline.core.errors import NotFound
from tuneline.endpoints.engine_pool import EnginePool, Upstream
from tuneline.endpoints.gateway import build_gateway

BODIES = [
    *(b"", b"null", b"[]", b'"x"', b"1", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b'{"model": "\xff"}'),
    *(json.dumps({"model": model}).encode() for model in ([], {}, None, 1, True, ["m"], "\ud800", "no-such")),
    *(b'{"model": "m", "temperature": %s}' % number for number in (b"NaN", b"Infinity", b"1e999", b"9" * 5000)),
    *(b'{"model": "m", "messages": %s}' % text for text in (b'"\\ud800"', b"[" * 500 + b"]" * 500, b"1", b"[[]]")),
    *(b'{"model": "m", "tools": %s}' % tools for tools in (b"1", b'"x"', b"[1]", b'[{"function": {"name": []}}]')),
]


class Pool(EnginePool):
    """One name, `m`, served by an engine that is up."""

    def __init__(self, url: str) -> None:
        super().__init__(("gguf",))
        self.url = url

    def update(self) -> None: ...

    def resolve(self, name: str) -> Upstream:
        if name in {"m"}:
            return Upstream(self.url, {"model": "m-1"})
        raise NotFound(f"{name}: not served here")


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    class Engine(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Engine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        pool = Pool(f"http://127.0.0.1:{server.server_port}")
        with TestClient(build_gateway(pool, with_keys=False), raise_server_exceptions=False) as client:
            yield client
        server.shutdown()


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_a_malformed_body_is_the_clients_error(client: TestClient, path: str) -> None:
    for body in BODIES:
        response = client.post(f"/v1/{path}", content=body)
        assert response.status_code in (200, 400, 404), f"{response.status_code}: {body[:80]!r}"
        assert response.status_code == 200 or response.json()["error"]["message"]


def test_damaged_bodies_are_the_clients_errors(client: TestClient) -> None:
    chance = random.Random(1)
    whole = b'{"model": "m", "messages": [{"role": "user", "content": "h\xc3\xa9"}], "tools": [], "n": 1.5}'
    for _ in range(500):
        at = chance.randrange(len(whole))
        body = whole[:at] + chance.randbytes(chance.randrange(3)) + whole[at + chance.randrange(4) :]
        assert client.post("/v1/chat/completions", content=body).status_code in (200, 400, 404), body
