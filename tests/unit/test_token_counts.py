"""What a request is counted as: also one whose caller left early, and one whose upstream counts in several events."""

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from tests.unit.misbehaving import ANSWER, USAGE, Connection, MisbehavingUpstream, running, serving, target
from tuneline.endpoints import keys
from tuneline.endpoints.gateway.api_errors import ApiError
from tuneline.endpoints.gateway.key_index import Key
from tuneline.endpoints.gateway.key_limits import KeyLimits
from tuneline.endpoints.gateway.routing import Plan
from tuneline.endpoints.traffic.assignment import Assignment

QUESTION = "how many? " * 70
PROMPT_TOKENS = 200
"""About."""


async def endless(c: Connection) -> None:
    await c.begin()
    await c.tokens(0, 40)
    await asyncio.sleep(20)


async def silent(c: Connection) -> None:
    await asyncio.sleep(20)


async def broken(c: Connection) -> None:
    await c.begin()
    await c.tokens(0, 40)
    await asyncio.sleep(0.1)
    c.reset()


async def uncounted(c: Connection) -> None:
    message = {"role": "assistant", "content": ANSWER}
    await c.whole(200, {"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": message}]})


async def anthropic(c: Connection) -> None:
    await c.begin()
    for event in (
        {"type": "message_start", "message": {"usage": {"input_tokens": 80, "cache_read_input_tokens": 20}}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 50}},
        {"type": "message_stop"},
    ):
        await c.event(event)
    await c.send(b"0\r\n\r\n")


FAULTS = {"endless": endless, "silent": silent, "broken": broken, "uncounted": uncounted, "anthropic": anthropic}


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[httpx2.Client, Path]]:
    monkeypatch.setenv("TUNELINE_LOGS", str(tmp_path / "logs"))
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    key = keys.add_key("maria", '{"usd_per_day": 0.0001}')
    with running(MisbehavingUpstream(dict(FAULTS))) as upstream:
        prices = {"prompt_usd_per_million": 1, "completion_usd_per_million": 1, "retries": 0}
        patient = {"response_s": 10, "first_token_s": 10, "stall_s": 10}
        apis = {"anthropic": {"apis": ["messages"]}}
        models = {
            name: {"baseline": target(upstream, name, **prices, **patient, **apis.get(name, {}))}
            for name in (*FAULTS, "good")
        }
        (tmp_path / "gateway.yaml").write_text(yaml.safe_dump({"models": models}))
        with (
            serving(tmp_path / "gateway.yaml", with_keys=True) as (url, _),
            httpx2.Client(base_url=url, timeout=10, headers={"authorization": f"Bearer {key}"}) as client,
        ):
            yield client, tmp_path / "logs/requests"


def body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": QUESTION}]} | more


def wait_for_line(logs: Path) -> dict[str, Any]:
    deadline = time.monotonic() + 10
    while not (lines := [line for file in logs.glob("*") for line in file.read_text().splitlines()]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    line: dict[str, Any] = json.loads(lines[-1])
    return line


def leave(client: httpx2.Client, model: str, *, stream: bool) -> None:
    if stream:
        with client.stream("POST", "/v1/chat/completions", json=body(model, stream=True)) as response:
            next(text for text in response.iter_text() if "w3 " in text)
        return
    with pytest.raises(httpx2.ReadTimeout):
        client.post("/v1/chat/completions", json=body(model), timeout=0.4)


@pytest.mark.parametrize(("model", "stream", "tokens"), [("endless", True, 40), ("silent", False, 0)])
def test_who_leaves_early_has_no_longer_a_budget_by_it(
    served: tuple[httpx2.Client, Path], model: str, stream: bool, tokens: int
) -> None:
    client, logs = served
    leave(client, model, stream=stream)
    line = wait_for_line(logs)
    assert (line["outcome"], line["estimated"], line["target"]) == ("left", True, f"url:{model}")
    assert 0.9 * PROMPT_TOKENS <= line["prompt_tokens"] <= 1.2 * PROMPT_TOKENS
    assert line["completion_tokens"] <= 1.2 * tokens and (line["completion_tokens"] > 0) == stream
    assert line.get("served", "") == ("baseline" if stream else "")
    assert client.post("/v1/chat/completions", json=body("good")).json()["error"]["code"] == "insufficient_quota"


@pytest.mark.parametrize(("model", "tokens"), [("broken", 40), ("uncounted", 60)])
def test_an_answer_without_a_count_is_counted(served: tuple[httpx2.Client, Path], model: str, tokens: int) -> None:
    client, logs = served
    assert client.post("/v1/chat/completions", json=body(model, stream=model == "broken")).status_code == 200
    line = wait_for_line(logs)
    assert line["estimated"] is True and 0.5 * tokens <= line["completion_tokens"] <= 2 * tokens and line["usd"] > 0


def test_what_the_upstream_counted_is_not_estimated(served: tuple[httpx2.Client, Path]) -> None:
    client, logs = served
    client.post("/v1/chat/completions", json=body("good", stream=True))
    line = wait_for_line(logs)
    assert "estimated" not in line and line["prompt_tokens"] == USAGE["prompt_tokens"]


def test_a_prompts_tokens_are_counted_where_the_last_event_has_only_the_answers(
    served: tuple[httpx2.Client, Path],
) -> None:
    client, logs = served
    assert client.post("/v1/messages", json=body("anthropic", stream=True, max_tokens=100)).status_code == 200
    line = wait_for_line(logs)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (100, 50) and "estimated" not in line


class Calendar:
    """A clock that a test sets."""

    now = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.mark.parametrize("restarted", [False, True])
def test_a_budget_begins_again_with_the_calendars_day_and_month(restarted: bool) -> None:
    """Thirty days from the first request would end a month's budget a day early, or with a restart two months late."""
    clock, plan = Calendar(), Plan("m", "other", "u", Assignment())
    daily, monthly = Key("ann", usd_per_day=1.0), Key("bob", usd_per_month=1.0)

    async def is_admitted(limits: KeyLimits, key: Key) -> bool:
        try:
            await limits.admit(key, plan, {})
        except ApiError as error:
            assert error.status == 429
            return False
        return True

    async def go() -> list[bool]:
        limits = KeyLimits(now=clock)
        if restarted:
            lines = [{"key": key.owner, "at": clock.now.isoformat(), "usd": 2.0} for key in (daily, monthly)]
            await limits.restore(lines, clock.now)
        else:
            for key in (daily, monthly):
                await limits.spend(key, 0, 2.0)
        seen = [await is_admitted(limits, daily), await is_admitted(limits, monthly)]
        clock.now = datetime(2026, 2, 1, 0, 0, tzinfo=UTC)
        return [*seen, await is_admitted(limits, daily), await is_admitted(limits, monthly)]

    assert asyncio.run(go()) == [False, False, True, True]


def test_many_requests_at_once_are_not_more_than_a_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared storage answers after a while: all that asked before had found the minute free."""
    limits, key, plan = KeyLimits(), Key("ann", requests_per_minute=10), Plan("m", "other", "u", Assignment())
    for method in ("hit", "get_window_stats"):
        original = getattr(SlidingWindowCounterRateLimiter, method)

        async def delayed(*arguments: Any, original: Any = original, **named: Any) -> Any:
            await asyncio.sleep(0.01)
            return await original(*arguments, **named)

        monkeypatch.setattr(SlidingWindowCounterRateLimiter, method, delayed)

    async def ask() -> bool:
        try:
            await limits.admit(key, plan, {})
        except ApiError:
            return False
        return True

    async def go() -> list[bool]:
        return await asyncio.gather(*(ask() for _ in range(100)))

    assert sum(asyncio.run(go())) == 10
