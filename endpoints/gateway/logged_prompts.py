"""Prompts and answers in the request log: only of the share of requests that the settings name, and redacted."""

import random
from typing import Any

from tuneline.core.redaction import redact
from tuneline.endpoints.gateway.completions import Exchange
from tuneline.endpoints.request_log.lines import RequestLine
from tuneline.stages.prepare.checks.personal_data import mask_sensitive

TOOL_FIELDS = ("role", "content", "tool_calls", "tool_call_id", "name")


def is_sampled(share: float) -> bool:
    """Return true for that share of calls."""
    return share > 0 and random.random() < share


def add_prompt_and_answer(line: RequestLine, exchange: Exchange) -> None:
    """Add the messages of a chat and its answer to a line, with secrets and personal data masked."""
    messages = exchange.body.get("messages")
    if line.api != "chat/completions" or not isinstance(messages, list) or exchange.text is None:
        return
    line.prompt = [mask({name: m[name] for name in TOOL_FIELDS if name in m}) for m in messages]
    calls = [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in exchange.text.calls]
    answer = {"role": "assistant", "content": exchange.text.text} | ({"tool_calls": calls} if calls else {})
    line.answer = mask(answer)
    if tools := exchange.body.get("tools"):
        line.tools = [tool["function"]["name"] for tool in tools if tool.get("type") == "function"]


def mask(value: Any) -> Any:
    """Return a JSON value whose texts have no secrets and no personal data, as `prepare` finds them."""
    if isinstance(value, str):
        return mask_sensitive(redact(value))
    if isinstance(value, dict):
        return {name: mask(item) for name, item in value.items()}
    return [mask(item) for item in value] if isinstance(value, list) else value
