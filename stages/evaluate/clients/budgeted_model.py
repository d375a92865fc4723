"""An external model that is asked within a budget, and whose replies are paid for once."""

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tuneline.configs.evaluation import Target
from tuneline.core import jsonl, paths
from tuneline.core.current_run import current_run
from tuneline.core.errors import StageFailed
from tuneline.core.redaction import redact_url
from tuneline.engines.providers import Chat
from tuneline.stages.evaluate.answers import Reply
from tuneline.stages.evaluate.clients.messages import Message
from tuneline.stages.evaluate.clients.openai_client import Prompts, to_reply
from tuneline.stages.evaluate.suites.item import Item

CHARACTERS_PER_TOKEN = 2.0
"""Fewer than in any real text, so that a request's cost is overestimated and the budget holds."""


class BudgetedModel:
    """An external model, asked within its budget.

    Replies that cost money are cached in `TUNELINE_CACHE/answers`: the same request is free afterwards, in any run.
    """

    def __init__(self, target: Target, chat: Chat, prompts: Prompts) -> None:
        self.target, self._chat, self._prompts = target, chat, prompts
        key = hashlib.sha256(f"{redact_url(chat.provider.base_url)} {target.model}".encode()).hexdigest()[:16]
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
                f"evaluate.targets: {self.target.name}: {self.spent:.4f} of budget_usd "
                f"{self.target.budget_usd:g} has been spent, and the next request could exceed the rest; raise "
                "it to continue: answers so far are kept"
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
        paid = {"model": self.target.model, "run": current_run.get(), "at": time.time()}
        record = {"key": key, "reply": asdict(reply)} | paid
        jsonl.append(self.file, record)
