"""Budgets survive a restart; rates are shared by gateways through Redis, and hold on while it is gone."""

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import yaml

from tests.unit.misbehaving import MisbehavingUpstream, running, serving, target
from tests.unit.test_gateway_app import run
from tuneline.endpoints.gateway.api_errors import ApiError
from tuneline.endpoints.gateway.key_index import Key
from tuneline.endpoints.gateway.key_limits import KeyLimits
from tuneline.endpoints.gateway.routing import Plan
from tuneline.endpoints.traffic.assignment import Assignment
from tuneline.engines.server import free_port

PLAN = Plan("router", "other", "unit", Assignment())
HELLO = {"model": "paid", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_LOGS", str(tmp_path / "logs"))
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    return tmp_path


def test_a_budget_is_spent_once_also_across_restarts(folder: Path) -> None:
    key = run("keys", "add", "maria", "--usd-per-day", "0.001").split()[0]
    opened = {"Authorization": f"Bearer {key}"}
    with running(MisbehavingUpstream({})) as upstream:
        paid = target(upstream, "paid", completion_usd_per_million=10, budget_usd_per_day=0.0015)  # 0.0006 an answer
        (folder / "gateway.yaml").write_text(yaml.safe_dump({"models": {"paid": {"baseline": paid}}}))
        statuses = []
        for _ in range(4):
            with serving(folder / "gateway.yaml", with_keys=True) as (url, _):
                response = httpx2.post(f"{url}/v1/chat/completions", json=HELLO, headers=opened)
                statuses.append((response.status_code, response.json().get("error", {}).get("code")))
        assert statuses == [(200, None), (200, None), (429, "insufficient_quota"), (429, "insufficient_quota")]
        other = {"Authorization": f"Bearer {run('keys', 'add', 'otto').split()[0]}"}
        with serving(folder / "gateway.yaml", with_keys=True) as (url, _):
            ask = [httpx2.post(f"{url}/v1/chat/completions", json=HELLO, headers=other) for _ in range(2)]
        assert [response.status_code for response in ask] == [200, 503] and "budget" in ask[1].text  # the target's


@pytest.mark.parametrize("verb", ["add", "change"])
def test_a_budget_of_nothing_is_refused_and_not_taken_for_none(folder: Path, verb: str) -> None:
    run("keys", "add", "maria")
    before = (folder / "policy/keys.json").read_bytes()
    run("keys", verb, "otto" if verb == "add" else "maria", "--usd-per-day", "0", code=2)
    assert (folder / "policy/keys.json").read_bytes() == before


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    server = shutil.which("redis-server") or shutil.which("valkey-server")
    pytest.importorskip("redis")
    if server is None:
        pytest.skip("no redis-server here; `apt-get install redis-server`")
    port = free_port("127.0.0.1")
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        import redis as client

        deadline = time.monotonic() + 10
        while True:
            try:
                client.Redis(port=port).ping()
                break
            except client.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


def test_gateways_count_together_and_alone_while_redis_is_gone(redis: tuple[str, "subprocess.Popen[bytes]"]) -> None:
    url, process = redis
    key = Key("maria", requests_per_minute=10, tokens_per_minute=500)

    async def admitted(limits: KeyLimits, tries: int) -> int:
        count = 0
        for _ in range(tries):
            try:
                await limits.admit(key, PLAN, {})
                count += 1
            except ApiError as error:
                assert error.status == 429
        return count

    async def both() -> None:
        one, two = KeyLimits(url), KeyLimits(url.replace("redis://", "valkey://"))
        assert await admitted(one, 6) == 6 and await admitted(two, 6) == 4
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert await admitted(one, 12) == 10 and await admitted(two, 12) == 10  # each for itself
        await one.spend(key, 600, 0.0)
        assert await admitted(one, 1) == 0

    asyncio.run(both())
