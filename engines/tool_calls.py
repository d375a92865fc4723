"""Tool calls as Llama models write them: parsed from answers.

    <|python_tag|>{"name": "docs__create", "parameters": {"title": "plan"}}; {"name": …}

This is Llama 3.1's JSON form with its `<|python_tag|>`. Several calls are joined by exactly `"; "`, on which vLLM's
`llama3_json` parser splits. The chat templates in `configs/templates` write the same text.
"""

import json
from dataclasses import dataclass
from typing import Any

from tuneline.configs.catalogue import dotted_name, wire_name

TAG = "<|python_tag|>"
MISTRAL = "[TOOL_CALLS]"
"""What Mistral writes before its calls, which are one JSON list."""
SEPARATOR = "; "
LLAMA_4_START, LLAMA_4_END = "<|python_start|>", "<|python_end|>"
"""What Llama 4 writes before its calls, which have no separator."""


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool: its dotted name and its arguments."""

    name: str
    arguments: dict[str, Any]

    def openai(self) -> dict[str, Any]:
        """Return an entry for a message's `tool_calls`; arguments stay an object, as chat templates require."""
        return {"type": "function", "function": {"name": wire_name(self.name), "arguments": self.arguments}}

    @classmethod
    def from_openai(cls, call: dict[str, Any]) -> "ToolCall":
        """Return the call in an entry of `tool_calls`, whose arguments are an object or the JSON text of one.

        Raises:
            ValueError: the arguments are not a JSON object.
        """
        arguments = call["function"]["arguments"]
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if not isinstance(arguments, dict):
            raise ValueError(f"arguments are no object: {arguments!r}")
        return cls(dotted_name(call["function"]["name"]), arguments)


def parse_tool_calls(text: str) -> list[ToolCall]:
    """Return the calls in an answer; none unless the whole text consists of well-formed calls.

    `<|python_tag|>` may be missing, and arguments may be called `parameters` or `arguments`: Llama models write both.
    """
    decoder, rest, calls = json.JSONDecoder(), text.strip().removeprefix(TAG).strip(), []
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):  # a model that loops on `[` nests deeper than Python reads
            return []
        arguments = value.get("parameters", value.get("arguments")) if isinstance(value, dict) else None
        if not isinstance(arguments, dict) or not isinstance(value.get("name"), str):
            return []
        calls.append(ToolCall(dotted_name(value["name"]), arguments))
        rest = rest[end:].lstrip().removeprefix(";").lstrip()
    return calls


def to_llama3_text(text: str) -> str:
    """Return the text of calls, complete or still being written, as Llama 3 would have written it."""
    decoder, rest, calls = json.JSONDecoder(), text.removeprefix(LLAMA_4_START).removeprefix(LLAMA_4_END), []
    while rest.startswith("{"):
        try:
            _, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            break
        calls.append(rest[:end])
        rest = rest[end:].lstrip("; \n")
    return SEPARATOR.join([*calls, rest] if rest else calls)
