"""Models behind one interface, whoever serves them: `ask`, `stream`, tools, tokens, price, and the same errors.

    async with GroqProvider("llama-3.3-70b-versatile") as llm:
        answer = await llm.ask([{"role": "user", "content": "…"}], max_tokens=100)

Keys come from the environment. Errors are those of `engines.providers.Chat`. What an answer cost is by the price that
is given, as a recipe has it, or else by the list of genai-prices.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from tuneline.endpoints.prompts import add_to_system, find_style, prompt_headers
from tuneline.engines.chat_messages import Answer, Delta, Message
from tuneline.engines.litellm_chat import LiteLLMChat
from tuneline.engines.own_key import own_key
from tuneline.engines.prices import price_by_list
from tuneline.engines.providers import Chat, find_provider

Tools = Sequence[Mapping[str, Any]]


class LLMProvider:
    """A model of a provider: a name that `engines.providers.PROVIDERS` has, or the address of any server."""

    def __init__(
        self,
        provider: str,
        model: str,
        *,
        key_variable: str | None = None,
        usd_per_million: tuple[float, float] | None = None,
    ) -> None:
        """`usd_per_million` is what a million tokens of prompts and of answers cost; None: as genai-prices lists it.

        Raises:
            NotFound: no such provider. BadRequest: its key is not in the environment.
        """
        server = find_provider(provider, key_variable)
        self.model, self._usd = model, usd_per_million
        self._chat: Chat = server.connect(model, key=own_key(server.base_url) if server.key_variable is None else None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._chat.close()

    async def ask(self, messages: Sequence[Message], tools: Tools | None = None, **sampling: Any) -> Answer:
        """Return the complete answer, with its calls under dotted names and its tokens."""
        return await self._chat.ask(self._prepare(messages), tools, **self._with_headers(sampling))

    def stream(
        self, messages: Sequence[Message], tools: Tools | None = None, **sampling: Any
    ) -> AsyncIterator[Delta | Answer]:
        """Yield the answer's pieces, then the complete answer."""
        return self._chat.stream(self._prepare(messages), tools, **self._with_headers(sampling))

    def price_usd(self, answer: Answer) -> float | None:
        """Return what an answer cost; None where the price or its tokens are unknown."""
        if not answer.prompt_tokens:
            return None
        if self._usd is None:
            return self._price_by_list(answer.prompt_tokens, answer.completion_tokens)
        return (answer.prompt_tokens * self._usd[0] + answer.completion_tokens * self._usd[1]) / 1e6

    def _price_by_list(self, prompt: int, completion: int) -> float | None:
        url = self._chat.provider.base_url
        return price_by_list(self.model, prompt_tokens=prompt, completion_tokens=completion, url=url)

    def _prepare(self, messages: Sequence[Message]) -> Sequence[Message]:
        return messages

    @property
    def _headers(self) -> dict[str, str]:
        """Headers of each request."""
        return {}

    def _with_headers(self, sampling: dict[str, Any]) -> dict[str, Any]:
        headers = {**self._headers, **sampling.get("extra_headers", {})}
        return {**sampling, "extra_headers": headers} if headers else sampling


class LiteLLMProvider(LLMProvider):
    """A model by LiteLLM's name of it, as `gemini/gemini-2.5-flash`, with the extra `litellm`; it reads keys itself."""

    def __init__(
        self,
        model: str,
        *,
        url: str | None = None,
        key_variable: str | None = None,
        usd_per_million: tuple[float, float] | None = None,
    ) -> None:
        """Raises BadRequest: LiteLLM is not installed, has no such provider, or the key is not in the environment."""
        key = find_provider(url or "local", key_variable).read_key() if key_variable else None
        self.model, self._usd = model, usd_per_million
        self._chat = self._litellm = LiteLLMChat(model, url=url, key=key)

    def _price_by_list(self, prompt: int, completion: int) -> float | None:
        name = self.model.removeprefix(f"{self._litellm.kind}/")
        return price_by_list(name, prompt_tokens=prompt, completion_tokens=completion, provider=self._litellm.kind)


class OllamaProvider(LLMProvider):
    """A model of Ollama, on this machine unless another address is given."""

    def __init__(self, model: str, url: str = "ollama") -> None:
        super().__init__(url, model, usd_per_million=(0, 0))


class GroqProvider(LLMProvider):
    """A model of Groq; the key is in GROQ_API_KEY."""

    def __init__(self, model: str, *, usd_per_million: tuple[float, float] | None = None) -> None:
        super().__init__("groq", model, usd_per_million=usd_per_million)


class StyleWriterProvider(LLMProvider):
    """A model that writes in a style, one of `tuneline prompts ls`; `style` may be changed between questions."""

    def __init__(self, model: str, *, style: str, provider: str = "local", key_variable: str | None = None) -> None:
        """Raises NotFound if there is no such style, or no such provider."""
        self.style = style
        super().__init__(provider, model, key_variable=key_variable)

    @property
    def style(self) -> str:
        return self._style

    @style.setter
    def style(self, name: str) -> None:
        prompt = find_style(name)
        self._text, self._style, self._prompts = prompt.render(), name, {prompt.label: prompt.hash}

    def _prepare(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return the messages with the style after what their system message says."""
        return add_to_system(messages, self._text)

    @property
    def _headers(self) -> dict[str, str]:
        return prompt_headers(self._chat.provider.base_url, self._prompts)
