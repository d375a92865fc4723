"""What goes to a server of OpenAI's chat API and what comes back, as values."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneline.engines.tool_calls import ToolCall, parse_tool_calls

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """A model's complete answer."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    """All calls, by dotted name; empty if any of them is malformed."""
    raw_tool_calls: tuple[dict[str, Any], ...]
    """The server's `tool_calls`, as it sent them; empty where the calls were parsed from the text."""
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    """Both are 0 if the server reports no usage."""
    latency_s: float
    """From the request to the end of the answer, including the waits between retries."""


@dataclass(frozen=True)
class Delta:
    """A piece of a streamed answer: of its text, or of the tool call number `index`."""

    text: str = ""
    index: int | None = None
    name: str = ""
    arguments: str = ""


def to_api_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turn a dataset row's messages into the API's.

    Rows hold arguments as objects and need no ids; the API requires JSON text, and ids that results refer to.
    """
    api_messages: list[dict[str, Any]] = []
    unanswered_ids: list[str] = []
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
            unanswered_ids = [call["id"] for call in calls]
        elif message.get("role") == "tool":
            call_id = unanswered_ids.pop(0) if unanswered_ids else None
            if "tool_call_id" not in message and call_id:
                message["tool_call_id"] = call_id
        api_messages.append(message)
    return api_messages


def read_deltas(delta: Any, calls: dict[int, dict[str, Any]]) -> Iterator[Delta]:
    """Yield a chunk's pieces, and add those of tool calls to `calls`, which is by index."""
    if delta is None:
        return
    if delta.content:
        yield Delta(text=delta.content)
    for piece in delta.tool_calls or ():
        index = piece.index
        if index is None:  # as some servers that send each call whole
            index = len(calls) if piece.id or not calls else len(calls) - 1
        call = calls.setdefault(index, {"type": "function", "function": {"name": "", "arguments": ""}})
        if piece.id:
            call["id"] = piece.id
        name, arguments = (piece.function.name or "", piece.function.arguments or "") if piece.function else ("", "")
        call["function"]["name"] += name
        call["function"]["arguments"] += arguments
        yield Delta(index=index, name=name, arguments=arguments)


def to_answer(
    text: str, raw: tuple[dict[str, Any], ...], finish: str, counts: tuple[int, int], tools: bool, started: float
) -> Answer:
    """Return the whole answer; calls are read from its text where the server sent none and tools were shown."""
    calls = _parse_raw_calls(raw) if raw else tuple(parse_tool_calls(text)) if tools else ()
    finish = finish or ("tool_calls" if raw else "stop")
    return Answer(text, calls, raw, finish, *counts, latency_s=time.monotonic() - started)


def _parse_raw_calls(raw: tuple[dict[str, Any], ...]) -> tuple[ToolCall, ...]:
    try:
        return tuple(ToolCall.from_openai(call) for call in raw)
    except (ValueError, KeyError):
        return ()


def read_usage(usage: Any) -> tuple[int, int]:
    """Return the tokens of prompt and completion; 0 where a server reports none."""
    return (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
