"""Engines in containers that sleep: who wakes them, which version answers, and what happens when one is lost."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.unit.misbehaving import serving
from tuneline.configs.gateway import Gateway, Target
from tuneline.endpoints.gateway.failures import BOOTING
from tuneline.endpoints.gateway.routing import assign_by, make_plan
from tuneline.endpoints.remote_engines import RemoteEngines

HELLO = {"model": "router", "messages": [{"role": "user", "content": "hello"}]}
TOKEN = {"Modal-Key": "wk-1", "Modal-Secret": "ws-1"}


class Containers(ThreadingHTTPServer):
    """What is behind the address: containers that start at different times, one after the other in turn."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.versions, self.looks, self.asked = [["router-1"]], 0, 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Containers

    def do_GET(self) -> None:
        if self.path == "/health":  # a container that starts takes long, and Modal sends a redirect meanwhile
            self.send_response(303)
            self.send_header("Location", "/health?call=1")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.server.looks += 1
        self.respond(200, {"versions": self.server.versions[0]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        here = self.server.versions[self.server.asked % len(self.server.versions)]
        if body["model"] not in here:
            self.respond(503, {"error": {"message": "not here", "code": BOOTING}})
            return
        message = {"role": "assistant", "content": "hi"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        self.respond(200, {"id": "c", "object": "chat.completion", "model": body["model"], "choices": choices})

    def respond(self, status: int, body: Any) -> None:
        assert self.headers["Modal-Key"] == "wk-1"
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def containers() -> Iterator[Containers]:
    with Containers() as server:
        yield server
        server.shutdown()


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, containers: Containers) -> RemoteEngines:
    monkeypatch.setenv("TUNELINE_LOGS", str(tmp_path / "logs"))
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    promote(tmp_path, 1)
    return RemoteEngines(containers.url, TOKEN, ("gguf",), awake_s=30)


def promote(folder: Path, number: int) -> None:
    (folder / "policy/models").mkdir(parents=True, exist_ok=True)
    version = {"run": "a", "form": "gguf", "file": "convert/a.gguf", "context": 64, "convert": "x", "evaluate": "y"}
    versions = [version | {"number": n, "at": "2026-11-30T00:00:00Z"} for n in range(1, number + 1)]
    (folder / "policy/models/router.json").write_text(json.dumps({"name": "router", "versions": versions}))


def test_a_request_wakes_the_engines_and_a_look_does_not(
    tmp_path: Path, engines: RemoteEngines, containers: Containers
) -> None:
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump({}))
    assert not engines.ready
    engines.update()
    assert engines.states() == {"router": "asleep"} and engines.ready
    with serving(tmp_path / "gateway.yaml", engines) as (url, _), httpx2.Client(base_url=url, timeout=10) as client:
        assert client.get("/ready").status_code == client.get("/metrics").status_code == 200
        assert containers.looks == 0
        for _ in range(3):
            assert client.post("/v1/chat/completions", json=HELLO).json()["model"] == "router-1"
        assert containers.looks == 1 and engines.states() == {"router": "ready"}


def test_a_promoted_name_waits_longer_than_one_that_others_answer_for_too(engines: RemoteEngines) -> None:
    """A container that starts because the others are busy takes longer than a fallback is waited for."""
    body = HELLO | {"stream": True}
    plan = make_plan(Gateway(), "chat/completions", body, {}, "unit", assign_by(lambda *_: None), lambda _: "other")
    (only,) = plan.choices
    assert only.target.promoted == "router" and only.target.first_token_s > 10 * Target(promoted="x").first_token_s


def test_a_new_version_answers_all_from_when_one_container_has_it(
    tmp_path: Path, engines: RemoteEngines, containers: Containers
) -> None:
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump({}))
    engines.update()
    with serving(tmp_path / "gateway.yaml", engines) as (url, _), httpx2.Client(base_url=url, timeout=10) as client:

        def answered_by() -> str:
            return str(client.post("/v1/chat/completions", json=HELLO).json()["model"])

        assert answered_by() == "router-1"
        promote(tmp_path, 2)
        engines.update()
        assert engines.states() == {"router": "starting"} and answered_by() == "router-1"
        containers.versions = [["router-1", "router-2"], ["router-1"]]  # the other container starts it later
        engines.update()
        assert [answered_by() for _ in range(4)] == ["router-2"] * 4
        containers.versions = [["router-1"]]  # one that has only the version before says so, and changes nothing
        engines.update()
        with engines.use("router") as address:
            assert address.fields == {"model": "router-2"}


def test_containers_that_are_gone_are_woken_again(
    tmp_path: Path, engines: RemoteEngines, containers: Containers
) -> None:
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump({}))
    engines.update()
    engines._awake_s = 0.6
    with serving(tmp_path / "gateway.yaml", engines) as (url, _), httpx2.Client(base_url=url, timeout=10) as client:
        for looks in (1, 2):
            assert client.post("/v1/chat/completions", json=HELLO).status_code == 200 and containers.looks == looks
            deadline = time.monotonic() + 5
            while engines.states() != {"router": "asleep"}:
                assert time.monotonic() < deadline
                time.sleep(0.02)
