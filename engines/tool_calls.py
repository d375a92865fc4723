"""Tool calls as models write them: parsed from answers.

    <|python_tag|>{"name": "docs__create", "parameters": {"title": "plan"}}; {"name": …}         Llama 3
    <tool_call>\n{"name": "docs__create", "arguments": {"title": "plan"}}\n</tool_call>          Hermes
    [TOOL_CALLS] [{"name": "docs__create", "arguments": {"title": "plan"}, "id": "call00001"}]   Mistral

Llama 3 joins several calls by exactly `"; "`, on which vLLM's `llama3_json` parser splits. The chat templates in
`configs/templates` write the same texts.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from tuneline.configs.catalogue import dotted_name, wire_name

TAG = "<|python_tag|>"
MISTRAL = "[TOOL_CALLS]"
"""What Mistral writes before its calls, which are one JSON list."""
HERMES = "<tool_call>"
"""What Hermes writes before each call; `</tool_call>` is after it."""
SEPARATOR = "; "
_HERMES_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.S)
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
            raise ValueError(f"arguments are not an object: {arguments!r}")
        return cls(dotted_name(call["function"]["name"]), arguments)


def parse_tool_calls(text: str) -> list[ToolCall]:
    """Return the calls in an answer; none unless all of them are well-formed, and without text beside them.

    `<|python_tag|>` may be missing, and arguments may be called `parameters` or `arguments`: Llama models write both.
    Text before Hermes' calls is allowed, since they have a tag of their own.
    """
    if HERMES in text:
        blocks = _HERMES_CALL.findall(text)
        calls = [call for block in blocks for call in _parse_objects(block)]
        return calls if len(calls) == len(blocks) == text.count(HERMES) else []
    if text.lstrip().startswith(MISTRAL):
        return _parse_list(text.strip().removeprefix(MISTRAL))
    return _parse_objects(text.strip().removeprefix(TAG))


def _parse_list(text: str) -> list[ToolCall]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return []
    parsed = [_parse_objects(json.dumps(value)) for value in values] if isinstance(values, list) else []
    return [call for calls in parsed for call in calls] if all(parsed) else []


def _parse_objects(text: str) -> list[ToolCall]:
    """Return the calls in JSON objects one after another, or none if a part of the text is not one."""
    decoder, rest, calls = json.JSONDecoder(), text.strip(), list[ToolCall]()
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
