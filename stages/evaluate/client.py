"""One model behind one base URL as a function from a request's text to a reply."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from configs.catalogue import dotted_name
from endpoints.providers import Answer, provider
from stages.errors import StageFailed
from stages.evaluate.ask import Reply

UNREADABLE = 500
"""llama-server's status when a model's text is not what its template promises: a wrong answer, not an outage."""


@asynccontextmanager
async def asker(
    base_url: str,
    model: str,
    system: str,
    tools: list[dict[str, Any]],
    max_tokens: int,
    select: Callable[[str], list[dict[str, Any]]] | None = None,
) -> AsyncIterator[Callable[..., Awaitable[Reply]]]:
    """Asks with the whole catalogue (or what `select` leaves of it), or with `offered=False` without, at temperature 0.

    The prefix all prompts share stays in the server's cache.
    """
    head = [{"role": "system", "content": system}] if system else []
    sampling = {"temperature": 0, "max_tokens": max_tokens, "extra_body": {"cache_prompt": True}}

    async with provider(base_url).connect(model, retries=0) as chat:

        async def ask(text: str, *, offered: bool = True) -> Reply:
            shown = (select(text) if select else tools) if offered and tools else None
            started = time.monotonic()
            try:
                answer = await chat.ask([*head, {"role": "user", "content": text}], shown, **sampling)
            except StageFailed as error:
                if getattr(error.__context__, "status_code", None) != UNREADABLE:
                    raise
                return Reply(latency_s=time.monotonic() - started, error=str(error)[:500])
            return Reply(_calls(answer), answer.text, answer.completion_tokens, answer.latency_s)

        yield ask


def _calls(answer: Answer) -> list[dict[str, Any]]:
    if answer.tool_calls:
        return [{"name": call.name, "arguments": call.arguments} for call in answer.tool_calls]
    # One malformed call spoils them all: the names still tell what was meant.
    functions = [call["function"] for call in answer.raw_tool_calls]
    return [{"name": dotted_name(f["name"]), "arguments": None, "raw": f["arguments"]} for f in functions]
