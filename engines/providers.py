"""One async client for every server that speaks OpenAI's chat API, ours or a hosted one.

    async with find_provider("groq").connect("llama-3.3-70b-versatile") as chat:
        answer = await chat.ask([{"role": "user", "content": "…"}], tools=catalogue.openai(), temperature=0)

Tool calls are returned under the catalogue's dotted names, whether the server parsed them or left them in the text.
"""

import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

from tuneline.core.environment import read_stated_variable
from tuneline.core.errors import BadRequest, NotFound, StageFailed
from tuneline.core.redaction import MASK, redact_url
from tuneline.engines.chat_errors import ErrorTranslator
from tuneline.engines.chat_messages import Answer, Delta, Message, read_deltas, read_usage, to_answer, to_api_messages
from tuneline.engines.own_key import OWN_KEY, own_key_remedy

TIMEOUT_S = 300.0
RETRIES = 4
"""The SDK retries 429 and 5xx. It waits as long as Retry-After says, else 0.5 s, doubled each time, up to 8 s."""
_ACCOUNT = re.compile(r"[A-Za-z0-9-]+")
FINISH_REASONS = {
    "eos": "stop",  # Together
    "end_turn": "stop",  # Anthropic
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_length": "length",  # Mistral
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
}
"""What servers say instead of OpenAI's words."""
GIVEN_UP = ("abort", "error", "cancelled")
"""Of vLLM when it shuts down, Mistral, and others: what there is of the answer is not all of it."""
NO_KEY = "none"
"""The key sent to servers that require none; the SDK insists on one."""


@dataclass(frozen=True)
class Provider:
    """A server that speaks OpenAI's chat API."""

    name: str
    base_url: str = field(repr=False)
    """It may have credentials, which no message and no file shows: `name` stands for it there."""
    key_variable: str | None = None
    """Environment variable that holds the key; None where no key is required."""

    def connect(
        self, model: str, *, key: str | None = None, timeout_s: float = TIMEOUT_S, retries: int = RETRIES
    ) -> "Chat":
        """Return a client for one model; close it, or use it in `async with`.

        `key` takes precedence over the environment's.

        Raises:
            BadRequest: no key is given, and the variable that should hold it is not set; or it is `TUNELINE_API_KEY`,
                which is not for this server.
        """
        return Chat(self, model, Secret(key or self.read_key()), timeout_s, retries)

    def read_key(self) -> str:
        """Return the key in the environment, `NO_KEY` where none is required. Raises BadRequest as `connect` does."""
        if self.key_variable is None:
            return NO_KEY
        if self.key_variable == OWN_KEY and (remedy := own_key_remedy(self.base_url)):
            raise BadRequest(f"{self.name}: {remedy}")
        key = read_stated_variable(self.key_variable)
        if not key:
            raise BadRequest(
                f"{self.name}: {self.key_variable} is not set; `export {self.key_variable}=…` with your key"
            )
        return key


PROVIDERS = {
    p.name: p
    for p in (
        Provider("local", "http://127.0.0.1:8080/v1"),
        Provider("llama.cpp", "http://127.0.0.1:8080/v1"),
        Provider("vllm", "http://127.0.0.1:8000/v1"),
        Provider("ollama", "http://127.0.0.1:11434/v1"),
        Provider("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        Provider("together", "https://api.together.xyz/v1", "TOGETHER_API_KEY"),
        Provider("fireworks", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
        Provider("anthropic", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
        Provider("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
        Provider("runpod", "https://api.runpod.ai/v2/{RUNPOD_ENDPOINT_ID}/openai/v1", "RUNPOD_API_KEY"),
        Provider("bedrock", "https://bedrock-runtime.{AWS_REGION}.amazonaws.com/openai/v1", "AWS_BEARER_TOKEN_BEDROCK"),
    )
}


def find_provider(name_or_url: str, key_variable: str | None = None) -> Provider:
    """Return the provider of that name in `PROVIDERS`, or one at that URL.

    Raises:
        NotFound: neither a known name nor a URL.
        BadRequest: the URL comes from a file that has it without its credentials.
    """
    if name_or_url.startswith(("http://", "https://")):
        if MASK in name_or_url:
            raise BadRequest(f"{name_or_url}: its credentials are not stored in a run; use your original recipe")
        return Provider(redact_url(name_or_url), name_or_url.rstrip("/"), key_variable)
    if name_or_url not in PROVIDERS:
        raise NotFound(
            f"provider {name_or_url!r}: known are {', '.join(PROVIDERS)}, and any URL such as https://host/v1"
        )
    provider = _with_account(PROVIDERS[name_or_url])
    return replace(provider, key_variable=key_variable) if key_variable else provider


def _with_account(provider: Provider) -> Provider:
    """Return a provider whose address has the variables that it names, of the environment, in their places."""

    def read(match: re.Match[str]) -> str:
        value = read_stated_variable(match[1])
        if not _ACCOUNT.fullmatch(value):
            raise BadRequest(
                f"{provider.name}: {match[1]} is not set to letters, digits and '-'; `export {match[1]}=…`"
            )
        return value

    return replace(provider, base_url=re.sub(r"\{(\w+)\}", read, provider.base_url))


@dataclass(frozen=True)
class Secret:
    """A key that no repr shows."""

    value: str = field(repr=False)


class Chat:
    """A client for one model of one provider."""

    def __init__(self, provider: Provider, model: str, secret: Secret, timeout_s: float, retries: int) -> None:
        from openai import AsyncOpenAI

        self.provider, self.model, self._secret = provider, model, secret
        base_url, _, query = provider.base_url.partition("?")
        self._errors = ErrorTranslator(
            provider.name,
            provider.base_url,
            provider.key_variable,
            model,
            "" if secret.value == NO_KEY else secret.value,
        )
        with self._errors.translating():
            self._client = AsyncOpenAI(
                api_key=secret.value,
                base_url=base_url,
                default_query=dict(parse_qsl(query)),
                timeout=timeout_s,
                max_retries=retries,
            )
        self._create: Any = self._client.chat.completions.create

    def with_key(self, key: str) -> "Chat":
        """Return a client for the same model that asks with another key, over the same connections."""
        other = copy(self)
        other._secret = Secret(key)
        other._errors = replace(self._errors, key=key)
        other._client = self._client.with_options(api_key=key)
        other._create = other._client.chat.completions.create
        return other

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
        """Return the complete answer. `sampling` is whatever the API takes: temperature, max_tokens, seed, …

        Raises:
            BadRequest: the key or the request was refused.
            NotFound: no such model.
            StageFailed: no answer, also after retries.
        """
        started = time.monotonic()
        with self._errors.translating():
            completion = await self._create(**self._request(messages, tools, sampling))
        choices = getattr(completion, "choices", None)  # of a page that is no JSON the SDK returns the text
        if not choices or choices[0].message is None:
            raise StageFailed(f"{self.provider.name}: {self.model} returned no answer of the chat API")
        choice, usage = choices[0], completion.usage
        calls = tuple(call.model_dump(exclude_none=True) for call in choice.message.tool_calls or ())
        text, finish = choice.message.content or "", self._read_finish(choice.finish_reason or "")
        return to_answer(text, calls, finish, read_usage(usage), bool(tools), started)

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None, **sampling: Any
    ) -> AsyncIterator[Delta | Answer]:
        """Yield the answer's pieces as they arrive, then the complete answer as `ask` would return it.

        Raises:
            As `ask`; StageFailed also if the stream breaks off.
        """
        started, text, finish, counts = time.monotonic(), "", "", (0, 0)
        calls: dict[int, dict[str, Any]] = {}
        request = {"stream": True, "stream_options": {"include_usage": True}} | self._request(messages, tools, sampling)
        with self._errors.translating():
            async with await self._create(**request) as chunks:
                async for chunk in chunks:
                    usage = getattr(chunk, "usage", None)
                    counts = read_usage(usage) if usage else counts
                    for choice in (chunk.choices or ())[:1]:
                        finish = self._read_finish(choice.finish_reason) if choice.finish_reason else finish
                        for delta in read_deltas(choice.delta, calls):
                            text += delta.text
                            yield delta
        if not finish:
            raise StageFailed(
                f"{self.provider.name}: {self.model}'s answer broke off after {len(text)} characters; ask again"
            )
        yield to_answer(text, tuple(calls[i] for i in sorted(calls)), finish, counts, bool(tools), started)

    def _read_finish(self, reason: str) -> str:
        """Return OpenAI's word for why an answer ended.

        Raises:
            StageFailed: the server gave up in the middle of it.
        """
        if reason in GIVEN_UP:
            raise StageFailed(f"{self.provider.name}: {self.model} gave up in the middle of its answer ({reason})")
        return FINISH_REASONS.get(reason, reason)

    def _request(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, sampling: Mapping[str, Any]
    ) -> dict[str, Any]:
        request = {"model": self.model, "messages": to_api_messages(messages), **sampling}
        return request | {"tools": list(tools)} if tools else request
