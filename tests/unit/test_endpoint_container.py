"""The containers of gateway and engines: whatever fails in a look at the policy, the next look happens."""

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import modal
import pytest

from tests.unit.misbehaving import NoEngines, serving
from tuneline.core.errors import StageFailed
from tuneline.endpoints import engine_api, keys
from tuneline.endpoints.engine_api import EngineApi
from tuneline.endpoints.engine_pool import EnginePool
from tuneline.endpoints.gateway import app, loops
from tuneline.endpoints.gateway.key_index import KeyIndex
from tuneline.volumes.policy_copy import PolicyCopy

FAILURES = (
    modal.exception.InternalError("reload"),
    modal.exception.ConnectionError("away"),
    RuntimeError("there are open files"),
    StageFailed("an engine does not start"),
    ValueError("a bug"),
)


class Look:
    """A look at the policy that fails in every way first."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> None:
        self.number += 1
        if self.number <= len(FAILURES):
            raise FAILURES[self.number - 1]

    def wait(self) -> None:
        deadline = time.monotonic() + 20
        while self.number < len(FAILURES) + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self.number >= len(FAILURES) + 2


def test_the_gateway_follows_policy_and_engines_after_any_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_LOGS", str(tmp_path / "logs"))
    monkeypatch.setattr(app, "SETTINGS_EVERY_S", 0.01)
    monkeypatch.setattr(app, "ENGINES_EVERY_S", 0.01)
    (tmp_path / "gateway.yaml").touch()
    refresh, update = Look(), Look()
    with serving(tmp_path / "gateway.yaml", NoEngines(), refresh=refresh, update_engines=update):
        refresh.wait()
        update.wait()


def test_containers_of_engines_follow_after_any_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_api, "UPDATE_EVERY_S", 0.01)
    refresh, engines = Look(), EnginePool(("gguf",))

    async def run(wait: Callable[[], None]) -> None:
        async with EngineApi(engines, refresh).running():
            await asyncio.to_thread(wait)

    asyncio.run(run(refresh.wait))


def test_what_is_no_request_is_answered_in_openais_shape() -> None:
    async def ask(app: Any, content: bytes) -> httpx2.Response:
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://engines") as client:
            return await client.post("/v1/chat/completions", content=content)

    for content in (b'{"model": ', b"[1]", b'"\xff"', b"[" * 100_000):
        answer = asyncio.run(ask(EngineApi(EnginePool(("gguf",))), content))
        assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error", content[:10]
    answer = asyncio.run(ask(EngineApi(Broken(("gguf",))), b'{"model": "m"}'))
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"


class Broken(EnginePool):
    """Engines with a bug."""

    def use_version(self, model: str) -> Any:
        raise ZeroDivisionError


def test_keys_are_known_while_the_volume_appears_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume, policy, index = tmp_path / "policy", PolicyCopy(tmp_path / "policy"), KeyIndex()

    def owners() -> list[str | None]:
        return [key and key.owner for key in map(index.find, (kept, revoked))]

    monkeypatch.setenv("TUNELINE_POLICY", str(volume))
    kept, revoked = keys.add_key("maria"), keys.add_key("gone")
    policy.use()
    assert owners() == [None, None]
    policy.copy()
    assert owners() == ["maria", "gone"]
    volume.rename(tmp_path / "reloading")
    assert owners() == ["maria", "gone"]
    (tmp_path / "reloading").rename(volume)
    monkeypatch.setenv("TUNELINE_POLICY", str(volume))
    keys.revoke_key("gone")
    policy.use()
    policy.copy()
    assert owners() == ["maria", None]


def test_a_loop_that_ends_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever restarts it brings back one that follows: a gateway that follows nothing looks healthy."""
    monkeypatch.setenv("TUNELINE_LOGS", str(tmp_path / "logs"))
    signals: list[int] = []
    monkeypatch.setattr(loops.os, "kill", lambda _, number: signals.append(number))

    async def end(_: app.Gateway) -> None:
        raise MemoryError

    monkeypatch.setattr(app.Gateway, "follow_settings", end)
    (tmp_path / "gateway.yaml").touch()
    with serving(tmp_path / "gateway.yaml", NoEngines()):
        deadline = time.monotonic() + 10
        while not signals and time.monotonic() < deadline:
            time.sleep(0.01)
    assert signals == [signal.SIGTERM]
