"""Finds what a chat template left out of a rendered conversation.

A turn in the loss must hold its own text, calls and arguments; everything else must be somewhere in the rendering.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tuneline.stages.prepare.checks.personal_data import quote_start
from tuneline.stages.prepare.rendering.chat_templates import LOSS_BEGIN, LOSS_END, Chat, Spans

_THINKING = re.compile(r"</?think>")
_WHITE_SPACE = re.compile(r"\s+")


class Lost(NamedTuple):
    """What is not in a rendered text."""

    text: str
    quote: str = ""
    """The row's own words: for people on this machine, not for logs."""


def find_lost(text: str, spans: Spans, messages: Chat, tools: Sequence[str]) -> Lost | None:
    """Return what of a conversation is not in its rendered text, or None if everything is.

    `spans` are the turns in the loss, `tools` the names that models see.
    """
    turns = iter(spans)
    for number, message in enumerate(messages):
        in_loss = message["role"] == "assistant" and message.get("weight") != 0
        if in_loss:
            begin, end = next(turns)
            where = text[begin:end]
        else:
            where = text
        if lost := _find_in_message(where, message, in_loss=in_loss):
            return Lost(f"the chat template writes no {lost.text} (messages.{number})", lost.quote)
    if missing := next((name for name in tools if name not in text), None):
        return Lost(f"the chat template writes no tools ({missing} is not shown)")
    return None


def is_plainly_whole(marked: str, messages: Chat) -> bool:
    """Return whether each text is word for word in a marked rendering, an answer in a turn of its own; no calls.

    A quick look that most conversations pass; `find_lost` looks closer at the others.
    """
    at = 0
    for message in messages:
        content = message.get("content")
        if not content or "tool_calls" in message or "reasoning_content" in message or message.get("weight") == 0:
            return False
        content = content.strip()
        if message["role"] != "assistant":
            if content not in marked:
                return False
            continue
        begin = marked.find(LOSS_BEGIN, at)
        at = marked.find(LOSS_END, begin)
        if begin < 0 or not content or marked.find(content, begin, at) < 0:
            return False
    return True


def find_lost_thinking(text: str, spans: Spans, messages: Chat) -> Lost | None:
    """Return why the thinking of a turn in the loss is not learned, or None."""
    turns = (message for message in messages if message["role"] == "assistant" and message.get("weight") != 0)
    for (begin, end), message in zip(spans, turns, strict=False):
        thinking = message.get("reasoning_content")
        if thinking and not _is_written(thinking, text[begin:end]):
            return Lost("the chat template writes no reasoning_content", quote_start(thinking.strip()))
    return None


def _find_in_message(text: str, message: dict[str, Any], *, in_loss: bool) -> Lost | None:
    role, content = message["role"], message.get("content")
    calls = message.get("tool_calls") or ()
    if content and not _is_content_written(content, text, in_loss=in_loss):
        kind = "tool results" if role == "tool" else f"{role} text" + (" beside tool calls" if calls else "")
        return Lost(kind, quote_start(content.strip()))
    for call in calls:
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        if name not in text:
            return Lost(f"tool calls: {name}")
        if json.dumps(arguments, ensure_ascii=False) not in text:
            for value in _leaves(arguments):
                if not _is_value_written(value, text):
                    return Lost(f"arguments of calls of {name}", quote_start(str(value)))
    return None


def _is_content_written(content: str, text: str, *, in_loss: bool) -> bool:
    stripped = content.strip()
    if stripped in text:
        return True
    if not in_loss and "</think>" in stripped:  # templates leave earlier thinking out, as in serving
        stripped = stripped.rpartition("</think>")[2]
    return all(_is_written(part, text) for part in _THINKING.split(stripped))


def _is_written(part: str, text: str) -> bool:
    """Return whether a text, or its JSON form, is in another, whatever their white space."""
    part = part.strip()
    escaped = json.dumps(part, ensure_ascii=False)[1:-1]
    twice = json.dumps(escaped, ensure_ascii=False)[1:-1]  # JSON inside a JSON text
    if any(form in text for form in (part, escaped, twice, json.dumps(part)[1:-1])):
        return True
    if _WHITE_SPACE.sub("", part) in _WHITE_SPACE.sub("", text):
        return True
    try:  # a template may write JSON in other words
        value = json.loads(part)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict | list) and all(_is_value_written(leaf, text) for leaf in _leaves(value))


def _is_value_written(value: Any, text: str) -> bool:
    if isinstance(value, str):
        return _is_written(value, text) if value else True
    return json.dumps(value) in text or str(value) in text


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the keys and plain values in a JSON value."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
