"""Which engine counts as hung: one that neither answers nor works for anybody."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tuneline.endpoints.engine_liveness import FAILURES, Liveness


class Engine(ThreadingHTTPServer):
    """A server of one token and of a counter."""

    status, waits_s, works = 200, 0.0, False
    decoded = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Engine

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.server.waits_s)
        self.respond(self.server.status, b"{}")

    def do_GET(self) -> None:
        self.server.decoded += self.server.works
        self.respond(200, f"llamacpp:n_decode_total {self.server.decoded}\n".encode())

    def respond(self, status: int, content: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except ConnectionError:  # nobody waited
            return

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as server:
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "waits_s", "works", "hung"),
    [
        (200, 0, False, False),
        (400, 0, False, False),
        (200, 1, True, False),
        (200, 1, False, True),
        (500, 0, True, True),
    ],
    ids=["answers", "refuses", "works for others", "hangs", "fails"],
)
def test_an_engine_that_neither_answers_nor_works_is_hung(
    engine: Engine, status: int, waits_s: float, works: bool, hung: bool
) -> None:
    engine.status, engine.waits_s, engine.works = status, waits_s, works
    liveness = Liveness(f"http://127.0.0.1:{engine.server_port}/v1", "m-1", every_s=0.02, patience_s=0.1)
    try:
        deadline = time.monotonic() + (10 if hung else 0.02 * FAILURES + 0.5)
        while not liveness.hung and time.monotonic() < deadline:
            time.sleep(0.01)
        assert liveness.hung == hung
    finally:
        liveness.stop()


BROKEN = {
    "no HTTP": b"garbage\r\n\r\n",
    "cut": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc",
    "no chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("answer", BROKEN)
def test_an_engine_that_answers_in_no_http_is_hung(answer: str) -> None:
    """What watches it must not end by that: nobody would see the engine hang later."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.recv(65_536)
                    connection.sendall(BROKEN[answer])
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        watch = Liveness(f"http://127.0.0.1:{server.getsockname()[1]}/v1", "m", every_s=0.02, patience_s=2)
        deadline = time.monotonic() + 10
        while not watch.hung:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        watch.stop()
