"""What an answer says: its text and tool calls, from a body or from events, and whether the calls are valid."""

from functools import lru_cache
from typing import Any

import jsonschema_rs
import orjson

MAX_TEXT = 1 << 20
"""Characters of an answer that are kept for checks; longer answers are not checked."""


class AnswerText:
    """An answer as it grows."""

    def __init__(self, api: str) -> None:
        self._api = api
        self.model = ""
        self._pieces: list[str] = []
        self._size = 0
        self._calls: dict[tuple[int, int], list[str]] = {}

    @classmethod
    def of_body(cls, api: str, body: bytes) -> "AnswerText":
        """Return the text of a whole answer."""
        answer, text = cls(api), orjson.loads(body)
        answer.add_event(text)
        return answer

    @property
    def characters(self) -> int:
        """Characters of its text and of its calls' arguments."""
        return self._size

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def calls(self) -> list[tuple[str, str]]:
        """Return (name, arguments) of each tool call."""
        return [(name, arguments) for name, arguments in self._calls.values()]

    def add_event(self, event: dict[str, Any]) -> None:
        """Add what an event, or a whole body, brings. Only chat and completions are looked into."""
        self.model = str(event.get("model") or self.model)
        if self._api not in ("chat/completions", "completions") or self._size > MAX_TEXT:
            return
        for choice in event.get("choices") or ():
            message = choice.get("delta") or choice.get("message") or {}
            self._add_text(message.get("content") or choice.get("text"))
            for number, call in enumerate(message.get("tool_calls") or ()):
                function = call.get("function") or {}
                place = (choice.get("index", 0), call.get("index", number))
                parts = self._calls.setdefault(place, ["", ""])
                parts[0] += function.get("name") or ""
                parts[1] += function.get("arguments") or ""
                self._size += len(function.get("arguments") or "")

    def _add_text(self, text: Any) -> None:
        if isinstance(text, str) and text:
            self._pieces.append(text)
            self._size += len(text)


def calls_are_valid(body: dict[str, Any], answer: AnswerText) -> bool | None:
    """Return whether every tool call names an offered tool and fits its schema; None if there are no calls."""
    if not answer.calls:
        return None
    tools = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in body.get("tools") or ()
             if tool.get("type") == "function"}  # fmt: skip
    return all(_fits(tools.get(name), arguments) for name, arguments in answer.calls)


def _fits(schema: dict[str, Any] | None, arguments: str) -> bool:
    if schema is None:
        return False
    try:
        return bool(_validator(orjson.dumps(schema)).is_valid(orjson.loads(arguments or "{}")))
    except ValueError:
        return False


@lru_cache(maxsize=512)
def _validator(schema: bytes) -> Any:
    """Return a validator; one of a schema that is none, or leads elsewhere, accepts every object."""
    try:
        # A caller wrote it: a reference in it must not make this process ask a server or read a file.
        return jsonschema_rs.validator_for(orjson.loads(schema), offline=True)
    except (ValueError, jsonschema_rs.ReferencingError):
        return jsonschema_rs.validator_for({"type": "object"})
