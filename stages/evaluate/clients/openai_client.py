"""One model behind one base URL as a function from an item to a reply; a paid one is asked nothing twice."""

import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import Catalogue, dotted_name
from tuneline.configs.evaluation import Target
from tuneline.core import jsonl, paths
from tuneline.core.errors import StageFailed
from tuneline.engines.providers import Answer, Chat, find_provider
from tuneline.stages.evaluate.clients.asking import Message, Reply, request
from tuneline.stages.evaluate.clients.target_engines import Engine
from tuneline.stages.evaluate.suites.items import Item

CHARACTERS_A_TOKEN = 2.0
"""Few on purpose: a request is taken for dearer than it is, so that a budget holds."""

Ask = Callable[[Item, list[Message]], Awaitable[Reply]]


@asynccontextmanager
async def asker(engine: Engine, system: str, catalogue: Catalogue | None) -> AsyncIterator[Ask]:
    """Asks one of our own engines, with the item's tools or without, at temperature 0.

    The prefix all prompts share stays in the server's cache.
    """
    prompts = Prompts(system, catalogue)
    async with find_provider(engine.base_url).connect(engine.model, retries=0) as chat:

        async def ask(item: Item, before: list[Message]) -> Reply:
            started, sampling = time.monotonic(), {"temperature": 0, "max_tokens": item.max_tokens}
            try:
                answer = await chat.ask(
                    prompts.messages(item, before),
                    prompts.tools(item),
                    **sampling,
                    extra_body=dict(engine.body),
                )
            except StageFailed as error:
                status = getattr(error.__context__, "status_code", None)
                if status is None or status != engine.unreadable:
                    raise
                return Reply(latency_s=time.monotonic() - started, error=str(error)[:500])
            return reply_of(answer)

        yield ask


class Prompts:
    """What is sent for an item: the same to every model."""

    def __init__(self, system: str, catalogue: Catalogue | None) -> None:
        self._head = [{"role": "system", "content": system}] if system else []
        self._catalogue, self._all = catalogue, catalogue.openai() if catalogue else None

    def messages(self, item: Item, before: list[Message]) -> list[Message]:
        return [*self._head, *before, request(item)]

    def tools(self, item: Item) -> list[dict[str, Any]] | None:
        if not (item.offered and self._catalogue):
            return None
        return self._all if item.shown is None else self._catalogue.openai(item.shown)


def reply_of(answer: Answer, cost_usd: float = 0.0) -> Reply:
    """A provider's answer as what is judged."""
    return Reply(
        calls=_calls(answer),
        text=answer.text,
        tokens=answer.completion_tokens,
        latency_s=answer.latency_s,
        prompt_tokens=answer.prompt_tokens,
        cut=answer.finish_reason == "length",
        cost_usd=cost_usd,
    )


def _calls(answer: Answer) -> list[dict[str, Any]]:
    if answer.tool_calls:
        return [{"name": call.name, "arguments": call.arguments} for call in answer.tool_calls]
    # One malformed call spoils them all: the names still tell what was meant.
    functions = [call["function"] for call in answer.raw_tool_calls]
    return [{"name": dotted_name(f["name"]), "arguments": None, "raw": f["arguments"]} for f in functions]


class Paid:
    """A model elsewhere, within its budget. Answers are kept in `TUNELINE_CACHE/answers`: what was paid for once costs
    nothing again, in this run or another."""

    def __init__(self, target: Target, chat: Chat, prompts: Prompts) -> None:
        self.target, self._chat, self._prompts = target, chat, prompts
        key = hashlib.sha256(f"{chat.provider.base_url} {target.model}".encode()).hexdigest()[:16]
        self.file: Path = paths.cache() / "answers" / f"{key}.jsonl"
        self._kept: dict[str, dict[str, Any]] = {}
        if target.is_paid:
            jsonl.end_cut_line(self.file)
            self._kept = {record["key"]: record["reply"] for record in jsonl.read(self.file, skip_broken=True)}
        self.spent = 0.0
        self._reserved = 0.0

    async def ask(self, item: Item, before: list[Message]) -> Reply:
        """The reply, kept from an earlier time or asked for.

        Raises:
            StageFailed: it could cost more than is left of the budget.
        """
        sent = self._sent(item, before)
        key = hashlib.sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()
        if key in self._kept:
            return Reply(**self._kept[key] | {"cost_usd": 0.0})
        most = self.most(item, before)
        if self.spent + self._reserved + most > self.target.budget_usd:
            raise StageFailed(
                f"evaluate.targets: {self.target.name}: {self.spent:.4f} of budget_usd {self.target.budget_usd:g} is "
                "spent, and the next request could cost more than is left; raise it: what was answered is kept"
            )
        self._reserved += most
        try:
            answer = await self._chat.ask(sent["messages"], sent["tools"], **sent["sampling"])
        finally:
            self._reserved -= most
        # A server that does not count is paid as if it had used all it could.
        counted = answer.prompt_tokens or answer.completion_tokens
        cost = self._cost(answer.prompt_tokens, answer.completion_tokens) if counted else most
        self.spent += cost
        reply = reply_of(answer, cost)
        if self.target.is_paid:
            self._keep(key, reply)
        return reply

    def most(self, item: Item, before: list[Message]) -> float:
        """USD that a request can cost at most."""
        sent = self._sent(item, before)
        characters = len(json.dumps([sent["messages"], sent["tools"]], ensure_ascii=False))
        return self._cost(characters / CHARACTERS_A_TOKEN, item.max_tokens)

    def _sent(self, item: Item, before: list[Message]) -> dict[str, Any]:
        sampling = {"temperature": 0, "max_tokens": item.max_tokens} | self.target.sampling
        return {
            "messages": self._prompts.messages(item, before),
            "tools": self._prompts.tools(item),
            "sampling": {name: value for name, value in sampling.items() if value is not None},
        }

    def _cost(self, prompt_tokens: float, answer_tokens: float) -> float:
        of = self.target
        return (prompt_tokens * of.usd_per_million_input + answer_tokens * of.usd_per_million_output) / 1e6

    def _keep(self, key: str, reply: Reply) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        jsonl.append(self.file, {"key": key, "reply": asdict(reply)})
