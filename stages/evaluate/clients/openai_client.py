"""Models behind an OpenAI chat API as functions from item to reply: our engines, and external ones in a budget."""

import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import Catalogue, dotted_name
from tuneline.configs.evaluation import Target
from tuneline.core import jsonl, paths
from tuneline.core.errors import StageFailed
from tuneline.engines import providers
from tuneline.engines.providers import Chat, find_provider
from tuneline.stages.evaluate.answers import Reply
from tuneline.stages.evaluate.clients.messages import Message, user_message
from tuneline.stages.evaluate.clients.suite_runner import Ask
from tuneline.stages.evaluate.clients.target_engines import Engine
from tuneline.stages.evaluate.suites.item import Item

CHARACTERS_PER_TOKEN = 2.0
"""Fewer than in any real text, so that a request's cost is overestimated and the budget holds."""


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
        """Return the system message, the conversation so far and the item's request."""
        return [*self._system, *history, user_message(item)]

    def tools(self, item: Item) -> list[dict[str, Any]] | None:
        """Return the tools sent with an item, or None where none are."""
        if not (item.offered and self._catalogue):
            return None
        return self._all_tools if item.shown is None else self._catalogue.openai(item.shown)


def to_reply(response: providers.Answer, cost_usd: float = 0.0) -> Reply:
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


def _calls(response: providers.Answer) -> list[dict[str, Any]]:
    if response.tool_calls:
        return [{"name": call.name, "arguments": call.arguments} for call in response.tool_calls]
    # One malformed call leaves none parsed; the names still say which tools were meant.
    functions = [call["function"] for call in response.raw_tool_calls]
    return [{"name": dotted_name(f["name"]), "arguments": None, "raw": f["arguments"]} for f in functions]


class BudgetedModel:
    """An external model, asked within its budget.

    Replies that cost money are cached in `TUNELINE_CACHE/answers`: the same request is free afterwards, in any run.
    """

    def __init__(self, target: Target, chat: Chat, prompts: Prompts) -> None:
        self.target, self._chat, self._prompts = target, chat, prompts
        key = hashlib.sha256(f"{chat.provider.base_url} {target.model}".encode()).hexdigest()[:16]
        self.file: Path = paths.cache() / "answers" / f"{key}.jsonl"
        self._cached: dict[str, dict[str, Any]] = {}
        if target.is_paid:
            jsonl.end_cut_line(self.file)
            self._cached = {record["key"]: record["reply"] for record in jsonl.read(self.file, skip_broken=True)}
        self.spent = 0.0
        self._reserved = 0.0

    async def ask(self, item: Item, history: list[Message]) -> Reply:
        """Return the cached reply to an item, or ask for one.

        Raises:
            StageFailed: the request could cost more than is left of the budget.
        """
        request = self._request(item, history)
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        if key in self._cached:
            return Reply(**self._cached[key] | {"cost_usd": 0.0})
        max_cost = self.max_cost(item, history)
        if self.spent + self._reserved + max_cost > self.target.budget_usd:
            raise StageFailed(
                f"evaluate.targets: {self.target.name}: {self.spent:.4f} of budget_usd {self.target.budget_usd:g} is "
                "spent, and the next request could cost more than is left; raise it: what was answered is kept"
            )
        self._reserved += max_cost
        try:
            response = await self._chat.ask(request["messages"], request["tools"], **request["sampling"])
        finally:
            self._reserved -= max_cost
        # A server that reports no usage is charged as if it had used all it could.
        has_usage = response.prompt_tokens or response.completion_tokens
        cost = self._cost(response.prompt_tokens, response.completion_tokens) if has_usage else max_cost
        self.spent += cost
        reply = to_reply(response, cost)
        if self.target.is_paid:
            self._cache(key, reply)
        return reply

    def max_cost(self, item: Item, history: list[Message]) -> float:
        """Return the most a request can cost, in USD."""
        request = self._request(item, history)
        characters = len(json.dumps([request["messages"], request["tools"]], ensure_ascii=False))
        return self._cost(characters / CHARACTERS_PER_TOKEN, item.max_tokens)

    def _request(self, item: Item, history: list[Message]) -> dict[str, Any]:
        sampling = {"temperature": 0, "max_tokens": item.max_tokens} | self.target.sampling
        return {
            "messages": self._prompts.messages(item, history),
            "tools": self._prompts.tools(item),
            "sampling": {name: value for name, value in sampling.items() if value is not None},
        }

    def _cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        input_usd, output_usd = self.target.usd_per_million_input, self.target.usd_per_million_output
        return (prompt_tokens * input_usd + completion_tokens * output_usd) / 1e6

    def _cache(self, key: str, reply: Reply) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        jsonl.append(self.file, {"key": key, "reply": asdict(reply)})
