"""Answers that are JSON, but not as the API has them: another target is asked, and the gateway itself never fails."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.unit.misbehaving import ANSWER, USAGE, Connection, Fault, MisbehavingUpstream, running, serving, target

TOOL = {"type": "function", "function": {"name": "send", "parameters": {"type": "object"}}}
MESSAGE = {"role": "assistant", "content": "hi"}
TOKEN = {"choices": [{"index": 0, "delta": {"content": "a"}}]}


def call(**parts: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [parts]}}]}


WHOLE: dict[str, dict[str, Any]] = {
    "choice-null": {"choices": [None]},
    "choice-text": {"choices": ["x"]},
    "message-text": {"choices": [{"message": "hi"}]},
    "index-list": {"choices": [{"index": [1], "message": MESSAGE}]},
    "calls-text": {"choices": [{"index": 0, "message": {"tool_calls": "x"}}]},
    "call-number": {"choices": [{"index": 0, "message": {"tool_calls": [5]}}]},
    "call-index-list": call(index=[1], function={"name": "send", "arguments": "{}"}),
    "function-text": call(function="send"),
    "name-number": call(function={"name": 5, "arguments": "{}"}),
    "arguments-object": call(function={"name": "send", "arguments": {"a": 1}}),
}
STREAMED: dict[str, dict[str, Any]] = {
    "first-choice-null": {"choices": [None]},
    "first-choices-number": {"choices": 5},
    "first-delta-text": {"choices": [{"index": 0, "delta": "hi"}]},
    "first-call-text": {"choices": [{"index": 0, "delta": {"tool_calls": ["x"]}}]},
}
LATER: dict[str, dict[str, Any]] = {f"later-{name.removeprefix('first-')}": event for name, event in STREAMED.items()}
ODD_USAGE: dict[str, Any] = {
    "usage-text": {"prompt_tokens": "many", "completion_tokens": 60},
    "usage-list": {"prompt_tokens": [1], "completion_tokens": 60},
    "usage-negative": {"prompt_tokens": -50, "completion_tokens": 60},
    "usage-huge": {"prompt_tokens": 10**30, "completion_tokens": 60},
    "usage-true": {"prompt_tokens": True, "completion_tokens": 60},
}
RETRY_AFTER = ["inf", "nan", "1e400", "9" * 400, "1e300", "-5", "Mon, 01 Jan 99999 00:00:00 GMT", "soon"]


def whole(parts: dict[str, Any]) -> Fault:
    body = {"id": "c", "object": "chat.completion", "model": "odd", "usage": USAGE}
    return lambda c: c.whole(200, body | {"choices": [{"index": 0, "message": MESSAGE}]} | parts)


def streamed(*events: dict[str, Any]) -> Fault:
    async def send(c: Connection) -> None:
        await c.begin()
        for event in events:
            await c.event(event)
            await asyncio.sleep(0.05)  # what comes together is looked at together
        await c.finish()

    return send


def refusing(retry_after: str) -> Fault:
    return lambda c: c.error(429, retry_after=retry_after)


FAULTS: dict[str, Fault] = {
    **{name: whole(parts) for name, parts in WHOLE.items()},
    **{name: whole({"usage": usage}) for name, usage in ODD_USAGE.items()},
    **{name: streamed(event) for name, event in STREAMED.items()},
    **{name: streamed(TOKEN, event) for name, event in LATER.items()},
    **{f"stream-{name}": streamed(TOKEN | {"usage": usage}) for name, usage in ODD_USAGE.items()},
    **{f"retry-{number}": refusing(value) for number, value in enumerate(RETRY_AFTER)},
}
Ask = Callable[..., httpx2.Response]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ask, Path]]:
    folder = tmp_path_factory.mktemp("gateway")
    with pytest.MonkeyPatch.context() as patch, running(MisbehavingUpstream(FAULTS)) as upstream:
        patch.setenv("TUNELINE_LOGS", str(folder / "logs"))
        patch.setenv("TUNELINE_POLICY", str(folder / "policy"))
        good = target(upstream, "good", response_s=5, first_token_s=5)
        models: dict[str, Any] = {}
        for name in FAULTS:
            odd = target(upstream, name, retries=0, response_s=5, first_token_s=5, prompt_usd_per_million=1)
            models[name] = {"baseline": odd}
            models[f"{name}.f"] = {"baseline": odd, "fallback": good}
        (folder / "gateway.yaml").write_text(yaml.safe_dump({"models": models}))
        with serving(folder / "gateway.yaml") as (url, _), httpx2.Client(base_url=url, timeout=10) as client:

            def ask(model: str, **more: Any) -> httpx2.Response:
                body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "tools": [TOOL]} | more
                return client.post("/v1/chat/completions", json=body)

            yield ask, folder / "logs"


def last_line(logs: Path) -> dict[str, Any]:
    [file] = (logs / "requests").iterdir()
    line: dict[str, Any] = json.loads(file.read_text().splitlines()[-1])
    return line


@pytest.mark.parametrize("fault", WHOLE)
def test_a_whole_answer_of_another_shape_is_none(served: tuple[Ask, Path], fault: str) -> None:
    ask, logs = served
    alone, replaced = ask(fault), ask(f"{fault}.f")
    assert (alone.status_code, replaced.status_code) == (502, 200)
    assert replaced.json()["choices"][0]["message"]["content"] == ANSWER
    assert last_line(logs)["served"] == "fallback"


@pytest.mark.parametrize("fault", STREAMED)
def test_a_stream_that_begins_in_another_shape_is_none(served: tuple[Ask, Path], fault: str) -> None:
    ask, _ = served
    alone, replaced = ask(fault, stream=True), ask(f"{fault}.f", stream=True)
    assert (alone.status_code, replaced.status_code) == (502, 200)
    assert "w59" in replaced.text and replaced.text.rstrip().endswith("[DONE]")


@pytest.mark.parametrize("fault", LATER)
def test_a_stream_that_changes_its_shape_ends_with_an_error(served: tuple[Ask, Path], fault: str) -> None:
    ask, logs = served
    response = ask(fault, stream=True)
    assert response.status_code == 200 and '"error"' in response.text and "[DONE]" not in response.text
    assert last_line(logs)["outcome"] == "interrupted"


@pytest.mark.parametrize("fault", ODD_USAGE)
@pytest.mark.parametrize("stream", [False, True])
def test_tokens_that_are_no_count_are_not_counted(served: tuple[Ask, Path], fault: str, stream: bool) -> None:
    """Negative ones would give budget back, and what is no number must not take an answer that is good."""
    ask, logs = served
    response = ask(f"stream-{fault}" if stream else fault, stream=stream)
    line = last_line(logs)
    assert response.status_code == 200 and "error" not in response.text
    assert line["outcome"] == "ok" and 0 <= line["prompt_tokens"] < 1000 and line["usd"] >= 0
    assert line["completion_tokens"] == 60


@pytest.mark.parametrize("number", range(len(RETRY_AFTER)))
def test_a_retry_after_that_is_none_is_answered_by_one_that_is(served: tuple[Ask, Path], number: int) -> None:
    response = served[0](f"retry-{number}")
    assert response.status_code == 429 and response.json()["error"]["message"]
    assert 1 <= int(response.headers["retry-after"]) <= 86_400


def test_what_fails_within_the_gateway_is_no_good_answer_in_the_log(
    served: tuple[Ask, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evidence for a step up is made of these lines."""

    def fail(*_: Any) -> bool:
        raise RuntimeError("a bug")

    monkeypatch.setattr("tuneline.endpoints.gateway.completions.calls_are_valid", fail)
    assert served[0]("usage-true").status_code == 500
    assert (last_line(served[1])["outcome"], last_line(served[1])["status"]) == ("error", 500)
