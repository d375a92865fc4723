"""Providers: one async way to ask any server that speaks OpenAI's chat API, ours or a hosted one.

    async with provider("groq").connect("llama-3.3-70b-versatile") as chat:
        answer = await chat.ask([{"role": "user", "content": "…"}], tools=catalogue.openai(), temperature=0)

Tool calls come back under the catalogue's dotted names, whether the server parsed them or left them in the text.
"""

import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from tuneline.core.errors import BadRequest, NotFound, StageFailed, TunelineError
from tuneline.engines.tool_calls import ToolCall, parse

Message = Mapping[str, Any]
TIMEOUT_S = 300.0
RETRIES = 4
"""Of 429 and 5xx, by the SDK: it waits as long as the server's Retry-After says, else 0.5 s, doubling, up to 8 s."""
NO_KEY = "none"
"""What is sent where no key is asked for; the SDK insists on one."""


@dataclass(frozen=True)
class Provider:
    """A server that speaks OpenAI's chat API."""

    name: str
    base_url: str
    key_variable: str | None = None
    """Environment variable that holds the key; None where no key is asked for."""

    def connect(
        self, model: str, *, key: str | None = None, timeout_s: float = TIMEOUT_S, retries: int = RETRIES
    ) -> "Chat":
        """A model here; close it, or use it in `async with`. `key` goes before the environment's.

        Raises:
            BadRequest: the variable that should hold the key is not set.
        """
        return Chat(self, model, _Secret(key or self._key()), timeout_s, retries)

    def _key(self) -> str:
        if self.key_variable is None:
            return NO_KEY
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise BadRequest(
                f"{self.name}: {self.key_variable} is not set; `export {self.key_variable}=…` with your key"
            )
        return key


PROVIDERS = {
    p.name: p
    for p in (
        Provider("local", "http://127.0.0.1:8080/v1"),
        Provider("vllm", "http://127.0.0.1:8000/v1"),
        Provider("ollama", "http://127.0.0.1:11434/v1"),
        Provider("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        Provider("together", "https://api.together.xyz/v1", "TOGETHER_API_KEY"),
        Provider("fireworks", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
        Provider("anthropic", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
        Provider("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
    )
}


def provider(name_or_url: str, key_variable: str | None = None) -> Provider:
    """A known provider by its name, or any other by its URL.

    Raises:
        NotFound: neither.
    """
    if name_or_url.startswith(("http://", "https://")):
        return Provider(name_or_url, name_or_url.rstrip("/"), key_variable)
    if name_or_url not in PROVIDERS:
        raise NotFound(
            f"provider {name_or_url!r}: known are {', '.join(PROVIDERS)}, and any URL such as https://host/v1"
        )
    known = PROVIDERS[name_or_url]
    return replace(known, key_variable=key_variable) if key_variable else known


@dataclass(frozen=True)
class Answer:
    """What a model answered."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    """All calls by dotted name; none if any of them is malformed."""
    raw_tool_calls: tuple[dict[str, Any], ...]
    """The server's `tool_calls`, as it sent them; empty where the calls were found in the text."""
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    """Both 0 where the server does not count."""
    latency_s: float
    """From the request to the end of the answer, waits between retries included."""


@dataclass(frozen=True)
class Delta:
    """A piece of an answer: of its text, or of the tool call number `index`."""

    text: str = ""
    index: int | None = None
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class _Secret:
    value: str = field(repr=False)


class Chat:
    """One model of one provider."""

    def __init__(self, provider: Provider, model: str, secret: _Secret, timeout_s: float, retries: int) -> None:
        from openai import AsyncOpenAI

        self.provider, self.model, self._secret = provider, model, secret
        self._client = AsyncOpenAI(
            api_key=secret.value, base_url=provider.base_url, timeout=timeout_s, max_retries=retries
        )
        self._create: Any = self._client.chat.completions.create

    def __repr__(self) -> str:
        return f"Chat({self.provider.name!r}, {self.model!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.close()

    async def ask(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None, **sampling: Any
    ) -> Answer:
        """The whole answer. `sampling` is whatever the API takes: temperature, max_tokens, seed, tool_choice, …

        Raises:
            BadRequest: the key or the request was refused. NotFound: no such model. StageFailed: no answer.
        """
        started = time.monotonic()
        with self._explained():
            completion = await self._create(**self._request(messages, tools, sampling))
        if not completion.choices:
            raise StageFailed(f"{self.provider.name}: {self.model} answered nothing at all")
        choice, usage = completion.choices[0], completion.usage
        calls = tuple(call.model_dump(exclude_none=True) for call in choice.message.tool_calls or ())
        return _answer(
            choice.message.content or "", calls, choice.finish_reason or "", _counts(usage), bool(tools), started
        )

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None, **sampling: Any
    ) -> AsyncIterator[Delta | Answer]:
        """Pieces as they come, then the whole answer as `ask` would give it. Raises what `ask` raises."""
        started, text, finish, counts = time.monotonic(), "", "", (0, 0)
        calls: dict[int, dict[str, Any]] = {}
        request = {"stream": True, "stream_options": {"include_usage": True}} | self._request(messages, tools, sampling)
        with self._explained():
            chunks = await self._create(**request)
            async with chunks:
                async for chunk in chunks:
                    counts = _counts(chunk.usage) if chunk.usage else counts
                    for choice in chunk.choices[:1]:
                        finish = choice.finish_reason or finish
                        for delta in _deltas(choice.delta, calls):
                            text += delta.text
                            yield delta
        if not finish:
            raise StageFailed(
                f"{self.provider.name}: {self.model}'s answer broke off after {len(text)} characters; ask again"
            )
        yield _answer(text, tuple(calls[i] for i in sorted(calls)), finish, counts, bool(tools), started)

    def _request(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, sampling: Mapping[str, Any]
    ) -> dict[str, Any]:
        request = {"model": self.model, "messages": _as_api(messages), **sampling}
        return request | {"tools": list(tools)} if tools else request

    @contextmanager
    def _explained(self) -> Iterator[None]:
        import httpx2  # what openai sends with; a stream that breaks raises its errors as they are
        import openai

        try:
            yield
        except httpx2.TransportError as error:
            raise StageFailed(
                f"{self.provider.name}: the answer broke off ({type(error).__name__}); ask again"
            ) from None
        except openai.APITimeoutError:
            raise StageFailed(
                f"{self.provider.name}: no answer from {self.provider.base_url} in time; try again"
            ) from None
        except openai.APIStatusError as error:
            raise self._refused(error.status_code, self._hidden(error.message)) from None
        except openai.APIConnectionError:
            start = "; `tuneline serve RUN` starts it" if self.provider.name == "local" else "; is it running?"
            raise StageFailed(f"{self.provider.name}: nothing answers at {self.provider.base_url}{start}") from None
        except openai.APIError as error:  # an error sent in the middle of a stream
            raise StageFailed(f"{self.provider.name}: {self.model}: {self._hidden(error.message)}") from None

    def _refused(self, status: int, message: str) -> TunelineError:
        name, variable = self.provider.name, self.provider.key_variable
        if status in (401, 403):
            remedy = f"`export {variable}=…` with one that may" if variable else "it wants a key: name its variable"
            return BadRequest(f"{name}: the key was refused ({status}); {remedy}")
        if status == 404:
            return NotFound(f"{name}: {self.model}: {message}; `curl {self.provider.base_url}/models` lists its models")
        if status == 429:
            return StageFailed(f"{name}: too many requests (429), also after waiting; ask less at a time, or later")
        return (BadRequest if status < 500 else StageFailed)(f"{name}: {self.model}: {message}")

    def _hidden(self, message: str) -> str:
        return message if self._secret.value == NO_KEY else message.replace(self._secret.value, "***")


def _as_api(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Dataset rows keep arguments as objects and need no ids; the API wants JSON text and ids that match results."""
    sent: list[dict[str, Any]] = []
    waiting: list[str] = []
    number = 0
    for message in messages:
        message = dict(message)
        if message.get("tool_calls"):
            calls = []
            for call in message["tool_calls"]:
                function, number = dict(call["function"]), number + 1
                if not isinstance(function["arguments"], str):
                    function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
                calls.append(
                    {"type": "function", **call, "id": call.get("id") or f"call_{number}", "function": function}
                )
            message["tool_calls"] = calls
            waiting = [call["id"] for call in calls]
        elif message.get("role") == "tool":
            expected = waiting.pop(0) if waiting else None
            if "tool_call_id" not in message and expected:
                message["tool_call_id"] = expected
        sent.append(message)
    return sent


def _deltas(delta: Any, calls: dict[int, dict[str, Any]]) -> Iterator[Delta]:
    if delta.content:
        yield Delta(text=delta.content)
    for piece in delta.tool_calls or ():
        call = calls.setdefault(piece.index, {"type": "function", "function": {"name": "", "arguments": ""}})
        if piece.id:
            call["id"] = piece.id
        name, arguments = (piece.function.name or "", piece.function.arguments or "") if piece.function else ("", "")
        call["function"]["name"] += name
        call["function"]["arguments"] += arguments
        yield Delta(index=piece.index, name=name, arguments=arguments)


def _answer(
    text: str, raw: tuple[dict[str, Any], ...], finish: str, counts: tuple[int, int], tools: bool, started: float
) -> Answer:
    calls = _parsed(raw) if raw else tuple(parse(text)) if tools else ()
    return Answer(text, calls, raw, finish, *counts, latency_s=time.monotonic() - started)


def _parsed(raw: tuple[dict[str, Any], ...]) -> tuple[ToolCall, ...]:
    try:
        return tuple(ToolCall.from_openai(call) for call in raw)
    except (ValueError, KeyError):
        return ()


def _counts(usage: Any) -> tuple[int, int]:
    return (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
