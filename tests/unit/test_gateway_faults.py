"""The gateway before upstreams that misbehave in the sixteen ways of failoverbench's catalogue, by the openai client.

A caller gets the whole answer, or a clear error; never a part of an answer as if it were whole.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import APIError, BadRequestError, InternalServerError, OpenAI, RateLimitError

from tests.unit.misbehaving import ANSWER, Connection, MisbehavingUpstream, running, serving, target

PACE_S = 0.1
"""So that the caller has a token before the fault; with nothing sent yet, another upstream would be asked."""
QUESTION: Any = [{"role": "user", "content": "Why trust a gateway?"}]


async def retry_after(c: Connection) -> None:
    await (c.error(429, retry_after="1") if c.number == 1 else c.answer())


async def always_429(c: Connection) -> None:
    await c.error(429)


async def once_500(c: Connection) -> None:
    await (c.error(500) if c.number == 1 else c.answer())


async def fails_on_some(c: Connection) -> None:
    await (c.error(500) if c.attempt.body["user"] == "bad" else c.answer())


async def always_503(c: Connection) -> None:
    await c.error(503)


async def once_reset(c: Connection) -> None:
    if c.number == 1:
        c.reset()
    else:
        await c.answer()


async def never(c: Connection) -> None:
    await asyncio.sleep(30)


async def slow_first_token(c: Connection) -> None:
    await c.begin()
    await asyncio.sleep(5)
    await c.tokens()
    await c.finish()


async def cut(c: Connection) -> None:
    await c.begin()
    await c.tokens(0, 40)
    c.writer.close()


async def cut_politely(c: Connection) -> None:
    await c.begin()
    await c.tokens(0, 40)
    await c.send(b"0\r\n\r\n")


async def stall(c: Connection) -> None:
    await c.begin()
    await c.tokens(0, 20)
    await asyncio.sleep(30)


async def malformed(c: Connection) -> None:
    await c.begin()
    await c.tokens(0, 10)
    await asyncio.sleep(PACE_S)
    await c.event('{"choices": [{"delta": {"content": "w10')
    await c.tokens(11)
    await c.finish()


async def no_done(c: Connection) -> None:
    await c.begin()
    await c.tokens()
    await c.finish(done=False)


async def no_end(c: Connection) -> None:
    """As `no_done`, and the connection stays open."""
    await c.begin()
    await c.tokens()
    await c.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    await asyncio.sleep(30)


async def too_long(c: Connection) -> None:
    await c.error(400, "context_length_exceeded")


async def refused_content(c: Connection) -> None:
    await c.error(400, "content_policy_violation")


async def error_first(c: Connection) -> None:
    await c.begin()
    await c.event({"error": {"message": "overloaded", "code": 529}})
    await c.send(b"0\r\n\r\n")


async def error_later(c: Connection) -> None:
    await c.begin()
    await c.tokens(0, 5)
    await asyncio.sleep(PACE_S)
    await c.event({"error": {"message": "overloaded"}})
    await c.send(b"0\r\n\r\n")


async def wrong_key(c: Connection) -> None:
    await c.error(401, "invalid_api_key")


async def web_page(c: Connection) -> None:
    await c.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>")


class Flapping:
    """503 until a moment, then well."""

    def __init__(self) -> None:
        self.until = 0.0

    async def __call__(self, c: Connection) -> None:
        await (c.error(503) if time.monotonic() < self.until else c.answer())


FLAPPING = Flapping()
FAULTS: dict[str, Any] = {
    name: value for name, value in dict(globals()).items() if asyncio.iscoroutinefunction(value)
} | {"flapping": FLAPPING}


@pytest.fixture(scope="module")
def upstream() -> Iterator[MisbehavingUpstream]:
    with running(MisbehavingUpstream(FAULTS)) as server:
        yield server


@pytest.fixture(scope="module")
def url(upstream: MisbehavingUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Each fault has a model of its name with a good fallback, and one called `NAME-alone` without."""
    folder = tmp_path_factory.mktemp("gateway")
    patch = pytest.MonkeyPatch()
    patch.setenv("TUNELINE_LOGS", str(folder / "logs"))
    patch.setenv("TUNELINE_POLICY", str(folder / "policy"))
    models: dict[str, Any] = {"good": {"baseline": target(upstream, "good")}}
    for name in FAULTS:
        fallback = target(upstream, "other", first_token_s=5)
        models[name.replace("_", "-")] = {"baseline": target(upstream, name), "fallback": fallback}
        models[f"{name.replace('_', '-')}-alone"] = {"baseline": target(upstream, name)}
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump({"models": models}))
    with serving(file) as (address, _):
        yield address
    patch.undo()


@pytest.fixture
def client(url: str, upstream: MisbehavingUpstream) -> OpenAI:
    upstream.attempts.clear()
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)


def stream(client: OpenAI, model: str, **more: Any) -> tuple[str, str, Any]:
    """Return (text, the model that answered, usage) of a streamed answer."""
    text, answered_by, usage = "", "", None
    chunks: Any = client.chat.completions.create(model=model, messages=QUESTION, stream=True, **more)
    for chunk in chunks:
        answered_by, usage = chunk.model or answered_by, chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
    return text, answered_by, usage


def test_a_429_is_tried_again_when_its_retry_after_says(client: OpenAI, upstream: MisbehavingUpstream) -> None:
    assert stream(client, "retry-after")[:2] == (ANSWER, "retry_after")
    first, second = upstream.of("retry_after")
    assert 0.95 <= second.at - first.at < 3


def test_a_lasting_429_is_left_after_few_tries_with_pauses(client: OpenAI, upstream: MisbehavingUpstream) -> None:
    assert stream(client, "always-429")[:2] == (ANSWER, "other")
    moments = [attempt.at for attempt in upstream.of("always_429")]
    assert len(moments) == 3 and moments[1] - moments[0] > 0.15 and moments[2] - moments[1] > 0.3
    with pytest.raises(RateLimitError) as error:
        stream(client, "always-429-alone")
    assert error.value.response.headers["retry-after"] == "1"


@pytest.mark.parametrize("fault", ["once_500", "once_reset"])
def test_a_single_failure_is_tried_again_there(client: OpenAI, upstream: MisbehavingUpstream, fault: str) -> None:
    assert stream(client, fault.replace("_", "-"))[:2] == (ANSWER, fault)
    assert len(upstream.of(fault)) == 2


@pytest.mark.parametrize("streamed", [True, False])
def test_a_lasting_503_is_answered_by_the_fallback_under_its_name(
    client: OpenAI, upstream: MisbehavingUpstream, streamed: bool
) -> None:
    if streamed:
        text, model, usage = stream(client, "always-503", stream_options={"include_usage": True})
    else:
        whole = client.chat.completions.create(model="always-503", messages=QUESTION)
        text, model, usage = whole.choices[0].message.content or "", whole.model, whole.usage
    assert (text, model) == (ANSWER, "other") and usage.completion_tokens == 60
    assert len(upstream.of("always_503")) <= 3
    with pytest.raises(InternalServerError) as error:
        stream(client, "always-503-alone")
    assert error.value.status_code == 503 and "fault 503" in error.value.message


@pytest.mark.parametrize("fault", ["never", "slow_first_token"])
def test_a_silent_upstream_is_left_for_good(client: OpenAI, upstream: MisbehavingUpstream, fault: str) -> None:
    started = time.monotonic()
    assert stream(client, fault.replace("_", "-"))[:2] == (ANSWER, "other")
    assert time.monotonic() - started < 3
    assert len(upstream.of(fault)) == 1  # it may be answering: it is not asked twice
    assert upstream.of(fault)[0].cut_after_s is not None
    with pytest.raises(InternalServerError) as error:
        stream(client, f"{fault.replace('_', '-')}-alone")
    assert error.value.status_code == 504


@pytest.mark.parametrize("fault", ["cut", "cut_politely", "stall", "malformed", "error_later"])
def test_a_stream_that_breaks_off_ends_with_an_error(client: OpenAI, upstream: MisbehavingUpstream, fault: str) -> None:
    started, text = time.monotonic(), ""
    chunks: Any = client.chat.completions.create(model=fault.replace("_", "-"), messages=QUESTION, stream=True)
    with pytest.raises(APIError, match="ask again"):
        for chunk in chunks:
            text += chunk.choices[0].delta.content or ""
    assert ANSWER.startswith(text.strip()) and text and time.monotonic() - started < 5
    assert len(upstream.attempts) == 1  # after the first token nobody else is asked, nor sent a prefill
    assert stream(client, "good")[0] == ANSWER


@pytest.mark.parametrize("fault", ["no_done", "no_end"])
def test_an_answer_without_its_last_line_is_whole(client: OpenAI, url: str, fault: str) -> None:
    started = time.monotonic()
    assert stream(client, fault.replace("_", "-"))[:2] == (ANSWER, fault)
    assert time.monotonic() - started < 4


def test_a_prompt_that_is_too_long_goes_to_another_model_at_once(client: OpenAI, upstream: MisbehavingUpstream) -> None:
    assert stream(client, "too-long")[:2] == (ANSWER, "other")
    assert len(upstream.of("too_long")) == 1
    with pytest.raises(BadRequestError) as error:
        stream(client, "too-long-alone")
    assert error.value.code == "context_length_exceeded"


def test_refused_content_is_an_answer(client: OpenAI, upstream: MisbehavingUpstream) -> None:
    with pytest.raises(BadRequestError, match="fault content_policy_violation") as error:
        stream(client, "refused-content")
    assert error.value.code == "content_policy_violation"
    assert [attempt.model for attempt in upstream.attempts] == ["refused_content"]


@pytest.mark.parametrize("fault", ["error_first", "wrong_key", "web_page"])
def test_what_is_no_answer_is_answered_by_the_fallback(
    client: OpenAI, upstream: MisbehavingUpstream, fault: str
) -> None:
    assert stream(client, fault.replace("_", "-"))[:2] == (ANSWER, "other")
    with pytest.raises(InternalServerError) as error:  # never a 401: the caller's key is not what was refused
        stream(client, f"{fault.replace('_', '-')}-alone")
    assert error.value.status_code in (500, 502, 503)


def test_requests_that_an_engine_fails_on_close_it_for_nobody_else(
    client: OpenAI, upstream: MisbehavingUpstream
) -> None:
    for _ in range(4):
        with pytest.raises(InternalServerError):
            stream(client, "fails-on-some-alone", user="bad")
    assert stream(client, "fails-on-some-alone", user="good")[:2] == (ANSWER, "fails_on_some")


def test_an_upstream_that_is_down_is_left_alone_and_used_again_when_it_is_back(
    client: OpenAI, upstream: MisbehavingUpstream
) -> None:
    FLAPPING.until = time.monotonic() + 2.5
    while time.monotonic() < FLAPPING.until:
        assert stream(client, "flapping")[:2] == (ANSWER, "other")
        time.sleep(0.05)
    assert len(upstream.of("flapping")) < 12  # a caller every 50 ms, three tries each
    deadline = time.monotonic() + 10
    while stream(client, "flapping")[1] != "flapping":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_caller_who_leaves_is_not_worked_for(client: OpenAI, url: str, upstream: MisbehavingUpstream) -> None:
    for streamed in (True, False):
        with pytest.raises(Exception, match="timed out"):
            client.with_options(timeout=0.3).chat.completions.create(model="never", messages=QUESTION, stream=streamed)
    deadline = time.monotonic() + 5
    while any(attempt.cut_after_s is None for attempt in upstream.attempts):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(upstream.of("never")) == 2 and all(a.cut_after_s < 0.55 for a in upstream.attempts)  # type: ignore[operator]
    assert not upstream.of("other")


def test_each_request_leaves_a_line(client: OpenAI, url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    import os

    stream(client, "always-503")
    files = list(Path(os.environ["TUNELINE_LOGS"]).glob("requests/*.jsonl"))
    line = json.loads(files[0].read_text().splitlines()[-1])
    assert (line["model"], line["assigned"], line["served"]) == ("always-503", "baseline", "fallback")
    assert (line["prompt_tokens"], line["completion_tokens"], line["outcome"]) == (21, 60, "ok")
    assert line["failures"] == ["url:always_503: status"] * 3 or "open" in line["failures"][-1]
    assert "Why trust" not in files[0].read_text() and line["first_token_s"] <= line["latency_s"]
