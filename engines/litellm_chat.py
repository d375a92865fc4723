"""A client of LiteLLM, for models behind other APIs than OpenAI's, as `gemini/…`; with the extra `litellm`.

It asks as `Chat` does and raises the same errors. LiteLLM reads keys in the environment by itself. It is 187 MB
and takes seconds to import: only who uses it loads it.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from copy import copy
from functools import partial
from typing import Any

from tuneline.core.errors import BadRequest, StageFailed
from tuneline.engines.chat_errors import ErrorTranslator
from tuneline.engines.providers import RETRIES, TIMEOUT_S, Chat, Provider, Secret

NAME = "litellm"


class LiteLLMChat(Chat):
    """A client for one model by LiteLLM's name of it."""

    def __init__(
        self,
        model: str,
        *,
        url: str | None = None,
        key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
    ) -> None:
        """Raises BadRequest if LiteLLM is not installed, or knows no provider of that name."""
        litellm = _import_litellm()
        self.provider, self.model, self._secret = (
            Provider(NAME, url or model.partition("/")[0]),
            model,
            Secret(key or ""),
        )
        self._errors = ErrorTranslator(NAME, url or "", None, model, key or "")
        with self._errors.translating():
            _, self.kind, _, _ = litellm.get_llm_provider(model, api_base=url)
        settings = {"timeout": timeout_s, "max_retries": retries, "api_base": url, "api_key": key}
        given = {name: value for name, value in settings.items() if value is not None}
        self._create = partial(_create, litellm.acompletion, **given)

    def with_key(self, key: str) -> "LiteLLMChat":
        """Return a client for the same model that asks with another key."""
        other = copy(self)
        other._secret, other._create = Secret(key), partial(self._create, api_key=key)
        return other

    async def close(self) -> None:
        """Nothing is held open here: LiteLLM keeps its connections for the process."""


async def _create(acompletion: Callable[..., Awaitable[Any]], **request: Any) -> Any:
    """Return an answer, or a stream that a block closes as it does openai's."""
    answer = await acompletion(**request)
    return aclosing(_read_to_its_end(answer, request["model"])) if request.get("stream") else answer


async def _read_to_its_end(stream: Any, model: str) -> AsyncIterator[Any]:
    """Yield the chunks; LiteLLM ends a stream that broke off with a `stop` of its own."""
    async with aclosing(stream):
        async for chunk in stream:
            ends = any(choice.finish_reason for choice in chunk.choices)
            if ends and stream.received_finish_reason is None:
                raise StageFailed(f"{NAME}: {model}'s answer broke off; ask again")
            yield chunk


def _import_litellm() -> Any:
    # Without this it downloads its list of prices when it is imported.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        import litellm
    except ImportError:
        raise BadRequest("pip install 'tuneline[litellm]' installs LiteLLM") from None
    litellm.suppress_debug_info = True  # it prints help of its own beside each error
    return litellm
