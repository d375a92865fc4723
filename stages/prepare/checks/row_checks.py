"""Checks of one conversation: the order of its turns, and its tool calls against their schemas."""

import json
from collections.abc import Iterator
from typing import Any

from tuneline.configs.catalogue import dotted_name, wire_name
from tuneline.stages.prepare.checks.problems import RowError
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.rows import Chat

FOLLOWS = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "call": ("tool",),
    "tool": ("tool", "assistant"),
}
"""Roles that may follow a role; `call` is an assistant's turn with tool calls."""


def check_turns(chat: Chat) -> Iterator[RowError]:
    """Yield an error for each turn that is out of order or empty, and for a chat that does not end with an answer."""
    previous = ""
    for number, turn in enumerate(chat):
        role, calls = turn["role"], turn.get("tool_calls")
        if calls and role != "assistant":
            yield RowError("wrong_order", f"messages.{number}: only the assistant calls tools")
        if not calls and not (turn.get("content") or "").strip():
            kind = "no_answer" if role == "assistant" else "empty_message"
            yield RowError(kind, f"messages.{number}: the {role} message is empty")
        if role not in FOLLOWS[previous]:
            yield _order_error(number, previous, role)
        previous = "call" if role == "assistant" and calls else role
    if previous not in ("assistant", "call"):
        yield RowError("no_answer", "row: the last message must be the assistant's")


def _order_error(number: int, previous: str, role: str) -> RowError:
    if role == "tool":
        return RowError("result_without_call", f"messages.{number}: a tool's result after {previous or 'nothing'}")
    if previous == "call":
        return RowError("call_without_result", f"messages.{number}: {role} right after a tool call")
    after = f"after {previous}" if previous else "first"
    return RowError("wrong_order", f"messages.{number}: {role} {after}; {' or '.join(FOLLOWS[previous])} is expected")


def normalize_calls(chat: Chat, toolbox: Toolbox) -> Iterator[RowError]:
    """Bring every tool call of a chat into the form rows have, in place; yield an error for each that is invalid.

    Names become wire names, arguments an object, and results are put in the order of their calls.
    """
    for number, turn in enumerate(chat):
        if not turn.get("tool_calls"):
            continue
        calls, ids = [], []
        for position, call in enumerate(turn["tool_calls"]):
            ids.append(call.get("id") if isinstance(call, dict) else None)
            try:
                calls.append(_normalize_call(call, f"messages.{number}.tool_calls.{position}", toolbox))
            except RowError as error:
                yield error
        turn["tool_calls"] = calls
        yield from _order_results(chat, number, ids)


def _normalize_call(call: Any, key: str, toolbox: Toolbox) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError("bad_arguments", f"{key}: a call is {{function: {{name, arguments}}}}")
    name, arguments = dotted_name(function["name"]), function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise RowError("bad_arguments", f"{key}: {name}: arguments are not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise RowError("bad_arguments", f"{key}: {name}: arguments are no object: {arguments!r}")
    if name not in toolbox.tools:
        raise RowError("unknown_tool", f"tool {name!r} is called but not in the catalogue (data.tools)")
    if violation := toolbox.check_arguments(name, arguments):
        raise RowError("bad_arguments", f"{key}: {name}: {violation}")
    return {"type": "function", "function": {"name": wire_name(name), "arguments": arguments}}


def _order_results(chat: Chat, number: int, ids: list[Any]) -> Iterator[RowError]:
    """Check the results after turn `number`, whose calls have these ids; sort them by id where all have one."""
    end = number + 1
    while end < len(chat) and chat[end]["role"] == "tool":
        end += 1
    results = chat[number + 1 : end]
    if not results:
        return
    if len(results) > len(ids):
        yield RowError("result_without_call", f"messages.{number}: {len(ids)} calls, {len(results)} results")
    elif len(results) < len(ids):
        yield RowError("call_without_result", f"messages.{number}: {len(ids)} calls, {len(results)} results")
    result_ids = [result.get("tool_call_id") for result in results]
    if any(result_ids) and all(ids):
        if unmatched := [id_ for id_ in result_ids if id_ and id_ not in ids]:
            text = f"messages.{number + 1}: tool_call_id {unmatched[0]!r} is no call's id"
            yield RowError("result_without_call", text)
        elif all(result_ids):
            chat[number + 1 : end] = sorted(results, key=lambda result: ids.index(result["tool_call_id"]))


def extract_text(chat: Chat) -> str:
    """Return the text of all messages of a conversation, then the arguments of its calls as JSON, a line each."""
    texts = [turn["content"] for turn in chat if turn.get("content")]
    for turn in chat:
        for call in turn.get("tool_calls") or ():
            texts.append(json.dumps(call["function"]["arguments"], ensure_ascii=False))
    return "\n".join(texts)
