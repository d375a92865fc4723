"""Providers as their published interfaces describe them: refused keys, rates, broken streams, words of their own."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.environments import CLIENTS
from tests.provider_peers import KEY, REFUSED, RETRY_AFTER_S, WRONG_KEY, Peers, serve_peers
from tuneline.core.errors import BadRequest, StageFailed
from tuneline.core.paths import ROOT
from tuneline.endpoints.llm_providers import LLMProvider
from tuneline.engines.chat_messages import Answer
from tuneline.engines.prices import price_by_list
from tuneline.engines.providers import PROVIDERS, Provider

ASKED = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def peers() -> Iterator[Peers]:
    with serve_peers() as serving:
        yield serving


@pytest.fixture
def by_name(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> Peers:
    """Every provider at its peer, with its key in the variable that it is in."""
    for name in REFUSED:
        variable = PROVIDERS[name].key_variable or "OWN_SERVER_KEY"
        monkeypatch.setitem(PROVIDERS, name, Provider(name, peers.url_of(name), variable))
        monkeypatch.setenv(variable, KEY)
    return peers


async def ask(provider: str, model: str) -> Answer:
    async with LLMProvider(provider, model) as llm:
        return await llm.ask(ASKED)


async def stream(provider: str, model: str) -> Answer:
    async with LLMProvider(provider, model) as llm:
        *_, answer = [piece async for piece in llm.stream(ASKED, [{"type": "function", "function": {"name": "a__b"}}])]
    assert isinstance(answer, Answer)
    return answer


def test_the_named_providers_are_there() -> None:
    hosted = {"openai", "anthropic", "groq", "together", "fireworks", "runpod", "bedrock"}
    assert hosted | {"vllm", "llama.cpp", "ollama", "local"} == set(PROVIDERS)


def test_a_wrong_key_names_its_variable_and_is_shown_nowhere(by_name: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in REFUSED:
        variable = PROVIDERS[name].key_variable or ""
        monkeypatch.setenv(variable, WRONG_KEY)
        with pytest.raises(BadRequest, match=f"{name}: the key was refused.*export {variable}=") as caught:
            asyncio.run(ask(name, "stop"))
        assert WRONG_KEY not in str(caught.value)


def test_all_wait_as_long_as_retry_after_says(by_name: Peers) -> None:
    async def all_at_once() -> list[Answer]:
        return await asyncio.gather(*(ask(name, "busy") for name in REFUSED))

    assert [answer.text for answer in asyncio.run(all_at_once())] == ["well"] * len(REFUSED)
    for name in REFUSED:
        first, second = by_name.asked[name, "busy"]
        assert second - first >= RETRY_AFTER_S


def test_a_rate_that_does_not_end_says_when_to_try_again(by_name: Peers) -> None:
    async def at_once() -> None:
        async with PROVIDERS["groq"].connect("busy", retries=0) as chat:
            await chat.ask(ASKED)

    by_name.asked.clear()
    with pytest.raises(StageFailed, match=f"try in {RETRY_AFTER_S} s"):
        asyncio.run(at_once())


@pytest.mark.parametrize(("model", "says"), [("broken", "broke off"), ("lost", "the engine stopped")])
def test_a_stream_that_ends_early_is_no_answer(by_name: Peers, model: str, says: str) -> None:
    with pytest.raises(StageFailed, match=says):
        asyncio.run(stream("together", model))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("eos", "stop"), ("end_turn", "stop"), ("max_tokens", "length"), ("content_filter", "content_filter")],
)
def test_why_an_answer_ended_is_said_in_one_way(by_name: Peers, theirs: str, ours: str) -> None:
    assert asyncio.run(ask("together", theirs)).finish_reason == ours
    assert asyncio.run(stream("together", theirs)).finish_reason == ours


def test_a_whole_answer_without_a_reason_is_whole(by_name: Peers) -> None:
    assert asyncio.run(ask("vllm", "none")).finish_reason == "stop"


def test_an_answer_that_the_server_gave_up_is_none(by_name: Peers) -> None:
    for asking in (ask, stream):
        with pytest.raises(StageFailed, match=r"gave up in the middle of its answer \(abort\)"):
            asyncio.run(asking("vllm", "abort"))


def test_a_page_instead_of_an_answer_is_an_error_of_ours(by_name: Peers) -> None:
    with pytest.raises(StageFailed, match="no answer of the chat API"):
        asyncio.run(ask("runpod", "page"))


def test_calls_without_an_index_stay_apart(by_name: Peers) -> None:
    answer = asyncio.run(stream("vllm", "whole-call"))
    assert [call.name for call in answer.tool_calls] == ["a.b", "a.b"]
    assert (answer.text, answer.prompt_tokens) == ("well", 7)


def test_a_listed_model_has_a_price_and_others_have_none(by_name: Peers) -> None:
    counts = {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000}
    assert price_by_list("gpt-4o-mini", url="https://api.openai.com/v1", **counts) == pytest.approx(0.15 + 0.60)
    assert price_by_list("llama-3.3-70b-versatile", provider="groq", **counts) == pytest.approx(0.59 + 0.79)
    assert price_by_list("gpt-4o-mini", url="http://127.0.0.1:8080/v1", **counts) is None
    assert price_by_list("no-such-model", provider="groq", **counts) is None


@pytest.mark.skipif(CLIENTS not in os.environ, reason="make test-all has LiteLLM in an environment of its own")
def test_litellm_has_the_same_interface_and_errors(peers: Peers) -> None:
    script = Path(__file__).parents[1] / "clients" / "litellm_provider.py"
    command = [os.environ[CLIENTS], str(script), peers.url_of("openai"), KEY, WRONG_KEY]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    said = json.loads(result.stdout.splitlines()[-1])
    assert said["ask"] == said["stream"] == {"text": "well", "finish": "stop", "tokens": [7, 3]}
    assert said["usd"] == pytest.approx((7 * 1 + 3 * 2) / 1e6)
    assert (
        said["refused"].startswith("BadRequest: litellm: the key was refused (401)")
        and WRONG_KEY not in said["refused"]
    )
    assert said["busy"] == "well" and len(peers.asked["openai", "busy"]) == 2
    assert said["broken"].startswith("StageFailed: litellm:")
    assert said["unknown"].startswith("BadRequest: litellm:")
