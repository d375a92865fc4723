"""Chat messages made of items and of the model's own earlier answers."""

from typing import Any

from tuneline.configs.catalogue import wire_name
from tuneline.stages.evaluate.answers import Answer
from tuneline.stages.evaluate.suites.item import Item

Message = dict[str, Any]


def user_message(item: Item) -> Message:
    """Return the user's message of an item, its long text first."""
    return {"role": "user", "content": f"{item.context}\n\n{item.text}" if item.context else item.text}


def turn_messages(item: Item, answer: Answer) -> list[Message]:
    """Return an answered turn as the history of the next one; each call gets a result that says it succeeded."""
    if not answer.calls:
        return [user_message(item), {"role": "assistant", "content": answer.text or "…"}]
    calls = [
        {"function": {"name": wire_name(call["name"]), "arguments": call["arguments"] or {}}} for call in answer.calls
    ]
    results = [{"role": "tool", "content": '{"status": "ok"}'} for _ in calls]
    return [user_message(item), {"role": "assistant", "content": answer.text, "tool_calls": calls}, *results]
