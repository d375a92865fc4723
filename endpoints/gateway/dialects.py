"""How answers look on each path: which event brings a token, which ends the answer, and how an error is written.

Chat and completions: OpenAI, "Streaming API responses"; responses: "Streaming events"; messages: Anthropic,
"Streaming messages".
"""

from dataclasses import dataclass
from typing import Any

import orjson

from tuneline.endpoints.gateway.api_errors import ApiError

Event = dict[str, Any]
DONE = b"data: [DONE]\n\n"
MOST_TOKENS = 10**9
"""Of a request; more is a mistake of who counted."""


@dataclass(frozen=True)
class Usage:
    """Tokens of a request, as its upstream counted them."""

    prompt: int = 0
    completion: int = 0


def join_usage(first: Usage | None, later: Usage | None) -> Usage | None:
    """Return what two events say together: counts only grow, and Anthropic's last has those of the answer alone."""
    if first is None or later is None:
        return first or later
    return Usage(max(first.prompt, later.prompt), max(first.completion, later.completion))


class ChatDialect:
    """`/v1/chat/completions` and `/v1/completions`."""

    sentinel = DONE

    def is_event(self, event: Event) -> bool:
        """Return whether the parts of an event, or of a whole answer, that are looked at are as the API has them."""
        choices = event.get("choices")
        return choices is None or (isinstance(choices, list) and all(map(_is_choice, choices)))

    def has_token(self, event: Event) -> bool:
        """Return whether a caller sees something of the answer in this event; a role alone is nothing."""
        return any(
            choice.get("finish_reason") or choice.get("text") or any(_visible(choice.get("delta") or {}))
            for choice in event.get("choices") or ()
        )

    def ended_choices(self, event: Event) -> set[int]:
        """Return the indexes of the choices that this event ends."""
        return {choice.get("index", 0) for choice in event.get("choices") or () if choice.get("finish_reason")}

    def is_usage_only(self, event: Event) -> bool:
        return bool(event.get("usage")) and not event.get("choices")

    def usage(self, body: Event) -> Usage | None:
        return _usage(body.get("usage"), "prompt_tokens", "completion_tokens")

    def is_answer(self, body: Any) -> bool:
        return isinstance(body, dict) and bool(body.get("choices")) and self.is_event(body)

    def error_event(self, error: ApiError, request_id: str) -> bytes:
        return b"data: " + error.body(request_id) + b"\n\n"


class ResponsesDialect(ChatDialect):
    """`/v1/responses`."""

    sentinel = b""

    def is_event(self, event: Event) -> bool:
        return isinstance(event.get("response"), dict | None)

    def has_token(self, event: Event) -> bool:
        kind = str(event.get("type"))
        return kind.endswith(".delta") or bool(self.ended_choices(event))

    def ended_choices(self, event: Event) -> set[int]:
        return {0} if event.get("type") in ("response.completed", "response.incomplete", "response.failed") else set()

    def is_usage_only(self, event: Event) -> bool:
        return False

    def usage(self, body: Event) -> Usage | None:
        usage = (body.get("response") or body).get("usage")
        return _usage(usage, "input_tokens", "output_tokens")

    def is_answer(self, body: Any) -> bool:
        return isinstance(body, dict) and isinstance(body.get("output"), list) and self.is_event(body)

    def error_event(self, error: ApiError, request_id: str) -> bytes:
        event = {"type": "error"} | error.as_dict(request_id)
        return b"event: error\ndata: " + orjson.dumps(event) + b"\n\n"


class MessagesDialect(ResponsesDialect):
    """`/v1/messages`."""

    def is_event(self, event: Event) -> bool:
        return isinstance(event.get("message"), dict | None)

    def has_token(self, event: Event) -> bool:
        return event.get("type") in ("content_block_delta", "message_delta", "message_stop")

    def ended_choices(self, event: Event) -> set[int]:
        return {0} if event.get("type") == "message_stop" else set()

    def usage(self, body: Event) -> Usage | None:
        usage = (body.get("message") or body).get("usage")
        return _usage(usage, "input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")

    def is_answer(self, body: Any) -> bool:
        return isinstance(body, dict) and isinstance(body.get("content"), list) and self.is_event(body)

    def error_event(self, error: ApiError, request_id: str) -> bytes:
        event = {"type": "error", "error": error.as_dict(request_id)}
        return b"event: error\ndata: " + orjson.dumps(event) + b"\n\n"


class EmbeddingsDialect(ChatDialect):
    """`/v1/embeddings`, which are not streamed."""

    def is_answer(self, body: Any) -> bool:
        return isinstance(body, dict) and isinstance(body.get("data"), list)


DIALECTS: dict[str, ChatDialect] = {
    "chat/completions": ChatDialect(),
    "completions": ChatDialect(),
    "responses": ResponsesDialect(),
    "messages": MessagesDialect(),
    "embeddings": EmbeddingsDialect(),
}


def _visible(delta: Event) -> list[Any]:
    return [value for name, value in delta.items() if name != "role" and value]


def _is_choice(choice: Any) -> bool:
    """Return whether a choice has its index, its delta or message, and their tool calls in the API's types."""
    if not isinstance(choice, dict) or not isinstance(choice.get("index"), int | None):
        return False
    for part in (choice.get("delta"), choice.get("message")):
        if part is None:
            continue
        calls = part.get("tool_calls") if isinstance(part, dict) else 0
        if calls is not None and not (isinstance(calls, list) and all(map(_is_call, calls))):
            return False
    return True


def _is_call(call: Any) -> bool:
    if not isinstance(call, dict) or not isinstance(call.get("index"), int | None):
        return False
    function = call.get("function") or {}
    return isinstance(function, dict) and all(
        isinstance(function.get(name), str | None) for name in ("name", "arguments")
    )


def _usage(usage: Any, prompt: str, completion: str, *more_prompt: str) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    return Usage(sum(_count(usage.get(name)) for name in (prompt, *more_prompt)), _count(usage.get(completion)))


def _count(value: Any) -> int:
    """Return a number of tokens; 0 for what is none, such as one below zero, which would give budget back."""
    is_count = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS
    return int(value) if is_count else 0
