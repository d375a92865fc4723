"""Our own engines behind their OpenAI chat API, as functions from an item to a reply."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tuneline.configs.catalogue import Catalogue, dotted_name
from tuneline.core.errors import StageFailed
from tuneline.engines import chat_messages
from tuneline.engines.providers import find_provider
from tuneline.stages.evaluate.answers import Reply
from tuneline.stages.evaluate.clients.messages import Message, user_message
from tuneline.stages.evaluate.clients.suite_runner import Ask
from tuneline.stages.evaluate.clients.target_engines import Engine
from tuneline.stages.evaluate.suites.item import Item


@asynccontextmanager
async def connect_engine(engine: Engine, system: str, catalogue: Catalogue | None) -> AsyncIterator[Ask]:
    """Yield a function that asks one of our own engines an item, at temperature 0.

    Raises:
        StageFailed: (on asking) no answer. A status that means unparsable output is a reply with an `error` instead.
    """
    prompts = Prompts(system, catalogue)
    async with find_provider(engine.base_url).connect(engine.model, retries=0) as chat:

        async def ask(item: Item, history: list[Message]) -> Reply:
            started, sampling = time.monotonic(), {"temperature": 0, "max_tokens": item.max_tokens}
            try:
                response = await chat.ask(
                    prompts.messages(item, history),
                    prompts.tools(item),
                    **sampling,
                    extra_body=dict(engine.body),
                )
            except StageFailed as error:
                status = getattr(error.__context__, "status_code", None)
                if status is None or status != engine.unparsable_status:
                    raise
                return Reply(latency_s=time.monotonic() - started, error=str(error)[:500])
            return to_reply(response)

        yield ask


class Prompts:
    """Messages and tools of an item, the same for every model."""

    def __init__(self, system: str, catalogue: Catalogue | None) -> None:
        self._system = [{"role": "system", "content": system}] if system else []
        self._catalogue, self._all_tools = catalogue, catalogue.openai() if catalogue else None

    def messages(self, item: Item, history: list[Message]) -> list[Message]:
        """Return the system message, the conversation so far and the item's request; or its logged messages.

        Logged messages that begin with a system message keep it.
        """
        if item.messages:
            has_system = item.messages[0]["role"] == "system"
            return [*(() if has_system else self._system), *item.messages]
        return [*self._system, *history, user_message(item)]

    def tools(self, item: Item) -> list[dict[str, Any]] | None:
        """Return the tools sent with an item, or None where none are."""
        if not (item.offers_tools and self._catalogue):
            return None
        return self._all_tools if item.shown_tools is None else self._catalogue.openai(item.shown_tools)


def to_reply(response: chat_messages.Answer, cost_usd: float = 0.0) -> Reply:
    """Return a provider's answer as the reply that is graded."""
    return Reply(
        calls=_calls(response),
        text=response.text,
        tokens=response.completion_tokens,
        latency_s=response.latency_s,
        prompt_tokens=response.prompt_tokens,
        cut=response.finish_reason == "length",
        cost_usd=cost_usd,
    )


def _calls(response: chat_messages.Answer) -> list[dict[str, Any]]:
    if response.tool_calls:
        return [{"name": call.name, "arguments": call.arguments} for call in response.tool_calls]
    # One malformed call leaves none parsed; the names still say which tools were meant.
    functions = [call["function"] for call in response.raw_tool_calls]
    return [{"name": dotted_name(f["name"]), "arguments": None, "raw": f["arguments"]} for f in functions]
