"""The calls in a model's answer, and what is to become of each before anything runs."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneline.configs.catalogue import dotted_name, wire_name
from tuneline.endpoints.assistant import history
from tuneline.endpoints.assistant.handlers import Handler
from tuneline.endpoints.assistant.untrusted_text import names_tool
from tuneline.engines.chat_messages import Answer

NAMES_SHOWN = 20
LONGEST_NAME = 64


@dataclass(frozen=True)
class RequestedCall:
    """A call that a model wrote: valid, or with what is wrong with it; `confirm` says why a person is asked first."""

    id: str
    name: str
    arguments: dict[str, Any]
    problem: str = ""
    confirm: str = ""

    def as_message_part(self) -> dict[str, Any]:
        """Return the entry of a message's `tool_calls`; engines refuse names and arguments that are none."""
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", wire_name(self.name))[:LONGEST_NAME] or "unknown"
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return {"id": self.id, "type": "function", "function": {"name": name, "arguments": arguments}}


def read_calls(
    answer: Answer, prefix: str, offered: Mapping[str, Handler], results: Sequence[str], limit: int
) -> list[RequestedCall]:
    """Return the calls of an answer, checked: only tools that were offered, only valid arguments, `limit` at most.

    `results` is what tools returned since the question. A tool that is named there was perhaps not the user's idea: its
    call waits for a person, whatever its handler says.
    """
    written: list[tuple[str, dict[str, Any] | None]] = [(call.name, call.arguments) for call in answer.tool_calls]
    if not written:
        written = [_read_raw(call) for call in answer.raw_tool_calls]
    calls = []
    for number, (name, raw) in enumerate(written):
        arguments = _as_json(raw)
        problem = _find_problem(name, arguments, offered)
        if number >= limit:
            problem = f"not run: at most {limit} calls at once; ask again for the others"
        confirm = "" if problem else _why_confirm(offered[name], results)
        calls.append(RequestedCall(f"{prefix}_{number}", name, arguments or {}, problem, confirm))
    return calls


def find_repeated(messages: Sequence[dict[str, Any]], calls: Sequence[RequestedCall]) -> list[str]:
    """Return the results of calls that were all made for this question before; nothing if one of them is new.

    A model that was trained to pick tools alone goes on picking: what it picked first is the answer, and nothing runs
    twice because of it.
    """
    results = [history.find_result(messages, call.as_message_part()["function"]) for call in calls]
    return [result for result in results if result is not None] if None not in results else []


def _read_raw(call: Mapping[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """Return name and arguments of one call where any of them is malformed; None for those that are no object."""
    function = call.get("function") or {}
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (ValueError, RecursionError):
        arguments = None
    return dotted_name(str(function.get("name", ""))), arguments if isinstance(arguments, dict) else None


def _as_json(arguments: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return arguments, or None if they have what JSON has not: NaN, or half a character."""
    try:
        json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    return arguments


def _find_problem(name: str, arguments: dict[str, Any] | None, offered: Mapping[str, Handler]) -> str:
    if name not in offered:
        return f"there is no tool {name[:LONGEST_NAME]!r}; there are {_list_names(offered)}"
    if arguments is None:
        return f"{name} did not run: its arguments are not a JSON object"
    problem = offered[name].known.check(arguments)
    return f"{name} did not run: {problem}" if problem else ""


def _list_names(offered: Iterable[str]) -> str:
    names = [wire_name(name) for name in offered]
    return ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")


def _why_confirm(handler: Handler, results: Sequence[str]) -> str:
    if handler.confirm:
        return "this tool always requires confirmation"
    if any(names_tool(text, handler.name, wire_name(handler.name)) for text in results):
        return "a result named this tool, so the call may not be your idea"
    return ""
