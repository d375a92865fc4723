"""Models behind one interface, before servers that speak their API."""

import asyncio
from typing import Any

import pytest

from tests.scripted_model import serve_script
from tuneline.core.errors import BadRequest, NotFound
from tuneline.endpoints.llm_providers import GroqProvider, LLMProvider, OllamaProvider, StyleWriterProvider
from tuneline.engines.chat_messages import Answer, Delta
from tuneline.engines.providers import PROVIDERS, Provider

ASKED: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello there"}]


def say(request: Any) -> Any:
    return [("a__b", {"x": 1})] if request.get("tools") else request["messages"][-1]["content"]


async def use(llm: LLMProvider) -> Answer:
    async with llm:
        pieces = [piece async for piece in llm.stream(ASKED)]
        assert "".join(piece.text for piece in pieces if isinstance(piece, Delta)).strip() == "hello there"
        called = await llm.ask(ASKED, [{"type": "function", "function": {"name": "a__b", "parameters": {}}}])
        assert [(call.name, call.arguments) for call in called.tool_calls] == [("a.b", {"x": 1})]
        return await llm.ask(ASKED, max_tokens=5)


def test_all_have_the_same_interface_and_say_what_an_answer_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_script(say) as model:
        monkeypatch.setitem(PROVIDERS, "groq", Provider("groq", model.url, "GROQ_API_KEY"))
        monkeypatch.setenv("GROQ_API_KEY", "gsk-0123456789")
        groq = GroqProvider("llama", usd_per_million=(1.0, 2.0))
        ollama = OllamaProvider("llama", model.url)
        plain = LLMProvider(model.url, "llama")
        answers = [asyncio.run(use(llm)) for llm in (groq, ollama, plain)]
        assert [answer.text for answer in answers] == ["hello there"] * 3
        prices = [llm.price_usd(answer) for llm, answer in zip((groq, ollama, plain), answers, strict=True)]
        assert prices == [(7 * 1.0 + 3 * 2.0) / 1e6, 0, None]
        assert model.requests[-1]["max_tokens"] == 5


def test_a_writer_picks_a_style_and_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def write(llm: StyleWriterProvider) -> None:
        async with llm:
            await llm.ask(ASKED)
            llm.style = "piano"
            await llm.ask(ASKED)

    with serve_script(say) as model:
        asyncio.run(write(StyleWriterProvider("m", style="epico", provider=model.url)))
        first, second = (request["messages"][0]["content"] for request in model.requests)
    assert first.startswith('Be brief.\n\nWrite in the style called "epico"') and "piano" in second
    with pytest.raises(NotFound, match="there are epico"):
        StyleWriterProvider("m", style="none")


def test_errors_are_the_same_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    with pytest.raises(BadRequest, match="GROQ_API_KEY is not set"):
        GroqProvider("m")
    with pytest.raises(NotFound, match="runpod"):
        LLMProvider("nobody", "m")


def test_addresses_that_name_an_account_say_which_variable_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, variable in (("runpod", "RUNPOD_ENDPOINT_ID"), ("bedrock", "AWS_REGION")):
        monkeypatch.delenv(variable, raising=False)
        with pytest.raises(BadRequest, match=variable):
            LLMProvider(name, "m")
        monkeypatch.setenv(variable, "abc1")
        monkeypatch.setenv(PROVIDERS[name].key_variable or "", "key-0123456789")
        assert "abc1" in str(LLMProvider(name, "m")._chat._client.base_url)
