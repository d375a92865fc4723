"""A conversation's messages as a prompt has them: whole, in order, and no more than fit."""

import json
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]
CHARACTERS_PER_TOKEN = 3.5
"""Of text and JSON in vocabularies of 32,000 entries and more."""
INTERRUPTED = "No result of this call is known: it was not confirmed, or it was interrupted."
NO_ANSWER = "(no answer)"


def estimate_tokens(messages: Sequence[Message]) -> int:
    """Return about how many tokens messages have."""
    return round(sum(len(json.dumps(message, ensure_ascii=False)) for message in messages) / CHARACTERS_PER_TOKEN)


def count_dropped(messages: Sequence[Message], limit_tokens: int) -> int:
    """Return how many of the oldest messages have to go, so that whole turns within the limit remain."""
    starts = [number for number, message in enumerate(messages) if message["role"] == "user"]
    return next((start for start in starts if estimate_tokens(messages[start:]) <= limit_tokens), len(messages))


def complete(messages: Sequence[Message]) -> list[Message]:
    """Return what a conversation lacks at its end: results of calls that never ran, an answer that never came."""
    answered = {message["tool_call_id"] for message in messages if message["role"] == "tool"}
    added = [
        {"role": "tool", "tool_call_id": call["id"], "content": INTERRUPTED}
        for message in messages
        for call in message.get("tool_calls", ())
        if call["id"] not in answered
    ]
    ends_open = bool(messages) and (added or messages[-1]["role"] in ("user", "tool"))
    return [*added, {"role": "assistant", "content": NO_ANSWER}] if ends_open else added


def in_order(messages: Sequence[Message]) -> list[Message]:
    """Return messages with results in the order of their calls: templates show no ids, and calls are confirmed in any
    order."""
    results = {message["tool_call_id"]: message for message in messages if message["role"] == "tool"}
    ordered: list[Message] = []
    for message in messages:
        if message["role"] != "tool":
            ordered.append(message)
            ordered += [results[call["id"]] for call in message.get("tool_calls", ()) if call["id"] in results]
    return ordered


def find_result(messages: Sequence[Message], function: dict[str, Any]) -> str | None:
    """Return what a call with this name and these arguments came to since the last question; None if none did."""
    results = {message["tool_call_id"]: message["content"] for message in messages if message["role"] == "tool"}
    for message in reversed(messages):
        if message["role"] == "user":
            break
        for call in message.get("tool_calls", ()):
            if call["function"] == function and call["id"] in results:
                return str(results[call["id"]])
    return None


def results_since_question(messages: Sequence[Message]) -> list[str]:
    """Return the texts of results that came after the last question."""
    texts: list[str] = []
    for message in reversed(messages):
        if message["role"] == "user":
            break
        if message["role"] == "tool":
            texts.append(message["content"])
    return texts
