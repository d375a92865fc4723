"""The assistant by OpenAI's chat API: what it reads of a request, and how events become a completion or its chunks."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tuneline.core.errors import BadRequest
from tuneline.endpoints.assistant.events import Called, Done, Event, Returned, Text, Waiting
from tuneline.endpoints.assistant.loop import Assistant
from tuneline.endpoints.assistant.store import Message
from tuneline.endpoints.assistant.untrusted_text import neutralise

FINISH = {"length": "length", "tokens": "length"}
"""OpenAI's `finish_reason` where it is not `stop`."""


@dataclass(frozen=True)
class ChatRequest:
    """What a chat request asks the assistant."""

    question: str
    earlier: list[Message]
    system: str
    stream: bool


@dataclass
class Collected:
    """What the events of a request came to."""

    conversation: str = ""
    text: str = ""
    finish: str = "stop"
    tokens: int = 0
    waiting: list[dict[str, Any]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def add(self, event: Event) -> str:
        """Take an event and return the text that it adds to the answer."""
        piece = ""
        if isinstance(event, Text):
            piece = event.text
        elif isinstance(event, Waiting):
            pending = event.pending
            self.waiting.append({"id": pending.id, "name": pending.name, "arguments": pending.arguments})
            call = f"{pending.name}({json.dumps(pending.arguments, ensure_ascii=False)})"
            piece = f"{call} waits for your confirmation (id {pending.id}).\n"
        elif isinstance(event, Done):
            self.conversation, self.finish, self.tokens = (
                event.conversation,
                FINISH.get(event.reason, "stop"),
                event.tokens,
            )
            self.sources = list(event.sources)
            piece = f"\n\nSources: {', '.join(event.sources)}" if event.sources and self.text else ""
        self.text += piece
        return piece

    @property
    def extension(self) -> dict[str, Any]:
        """Return what OpenAI's API has no place for: the conversation's id, calls that wait, sources."""
        return {
            "conversation": self.conversation,
            "waiting": self.waiting,
            "sources": self.sources,
            "tokens": self.tokens,
        }


def read_chat_request(body: Any) -> ChatRequest:
    """Return what a chat request asks.

    Raises:
        BadRequest: it ends with no user's text, or brings tools of its own.
    """
    messages = body.get("messages") if isinstance(body, Mapping) else None
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise BadRequest("messages: a list of messages")
    if body.get("tools") or body.get("functions"):
        raise BadRequest("tools: the assistant has its own; send none, or ask its model itself")
    if not messages or messages[-1].get("role") != "user":
        raise BadRequest("messages: the last one is the user's question")
    turns = [
        {"role": message["role"], "content": neutralise(_text_of(message))}
        for message in messages[:-1]
        if message.get("role") in ("user", "assistant") and _text_of(message)
    ]
    system = "\n\n".join(_text_of(message) for message in messages if message.get("role") in ("system", "developer"))
    return ChatRequest(_text_of(messages[-1]), turns, system, bool(body.get("stream")))


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text", "") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        return "\n".join(map(str, parts))
    return content if isinstance(content, str) else ""


def start(
    assistant: Assistant, owner: str, request: ChatRequest, conversation: str, style: str | None
) -> AsyncIterator[Event]:
    """Return the events of a request in a conversation, which begins with the request's turns if it is empty."""
    return assistant.ask(owner, request.question, conversation, style=style, earlier=request.earlier)


async def to_completion(events: AsyncIterator[Event], model: str, request_id: str) -> dict[str, Any]:
    """Return the whole answer as a chat completion, with our own `tuneline` beside it."""
    collected = Collected()
    async for event in events:
        collected.add(event)
    message = {"role": "assistant", "content": collected.text.strip()}
    usage = {"prompt_tokens": collected.tokens, "completion_tokens": 0, "total_tokens": collected.tokens}
    return {
        "id": request_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": collected.finish, "logprobs": None}],
        "usage": usage,
        "tuneline": collected.extension,
    }


async def to_chunks(events: AsyncIterator[Event], model: str, request_id: str) -> AsyncIterator[dict[str, Any]]:
    """Yield the answer as chat completion chunks; the last has `finish_reason` and our own `tuneline`.

    Chunks before it have a `tuneline` of their own where something is called, returned or waits.
    """
    collected = Collected()
    base = {"id": request_id, "object": "chat.completion.chunk", "created": int(time.time()), "model": model}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return base | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]}

    yield chunk({"role": "assistant", "content": ""})
    async for event in events:
        piece, step = collected.add(event), _describe_step(event)
        if piece or step:
            yield chunk({"content": piece} if piece else {}) | ({"tuneline": step} if step else {})
    yield chunk({}, collected.finish) | {"tuneline": collected.extension}


def _describe_step(event: Event) -> dict[str, Any]:
    """Return what a client can show of a call: that it runs, what it returned, or that it waits."""
    if isinstance(event, Called):
        return {"called": {"name": event.name, "arguments": event.arguments}}
    if isinstance(event, Returned):
        return {"returned": {"name": event.name, "text": event.text, "ok": event.ok}}
    if isinstance(event, Waiting):
        pending = event.pending
        call = {"id": pending.id, "name": pending.name, "arguments": pending.arguments}
        return {"waiting": call | {"reason": event.reason}}
    return {}
