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


@dataclass(frozen=True)
class Usage:
    """Tokens of a request, as its upstream counted them."""

    prompt: int = 0
    completion: int = 0


class ChatDialect:
    """`/v1/chat/completions` and `/v1/completions`."""

    sentinel = DONE

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
        return isinstance(body, dict) and isinstance(body.get("choices"), list) and bool(body["choices"])

    def error_event(self, error: ApiError, request_id: str) -> bytes:
        return b"data: " + error.body(request_id) + b"\n\n"


class ResponsesDialect(ChatDialect):
    """`/v1/responses`."""

    sentinel = b""

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
        return isinstance(body, dict) and isinstance(body.get("output"), list)

    def error_event(self, error: ApiError, request_id: str) -> bytes:
        event = {"type": "error"} | error.as_dict(request_id)
        return b"event: error\ndata: " + orjson.dumps(event) + b"\n\n"


class MessagesDialect(ResponsesDialect):
    """`/v1/messages`."""

    def has_token(self, event: Event) -> bool:
        return event.get("type") in ("content_block_delta", "message_delta", "message_stop")

    def ended_choices(self, event: Event) -> set[int]:
        return {0} if event.get("type") == "message_stop" else set()

    def usage(self, body: Event) -> Usage | None:
        return _usage((body.get("message") or body).get("usage"), "input_tokens", "output_tokens")

    def is_answer(self, body: Any) -> bool:
        return isinstance(body, dict) and isinstance(body.get("content"), list)

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


def _usage(usage: Any, prompt: str, completion: str) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    return Usage(int(usage.get(prompt) or 0), int(usage.get(completion) or 0))
