"""Checks of one conversation: its turns, its tool calls against their schemas, and its `tool_choice`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import dotted_name, wire_name
from tuneline.configs.tool_entries import to_wire
from tuneline.core.exact_json import find_repeated_key, is_finite
from tuneline.core.python_literals import parse_python
from tuneline.stages.prepare.checks.notes import Notes
from tuneline.stages.prepare.checks.problems import RowError
from tuneline.stages.prepare.checks.toolbox import KnownTool, RowTools, Toolbox
from tuneline.stages.prepare.rows import Chat


def check_turns(chat: Chat) -> Iterator[RowError]:
    """Yield an error for each turn that is empty, a result without its call, and a chat that has no answer."""
    previous = ""
    for number, turn in enumerate(chat):
        role, calls = turn["role"], turn.get("tool_calls")
        if calls and role != "assistant":
            yield RowError("wrong_role", f"messages.{number}: only the assistant calls tools")
        if not calls and role != "tool" and not (turn.get("content") or "").strip():
            kind = "no_answer" if role == "assistant" else "empty_message"
            yield RowError(kind, f"messages.{number}: the {role} message is empty")
        if role == "tool" and previous not in ("call", "tool"):
            yield RowError("result_without_call", f"messages.{number}: a tool's result after {previous or 'nothing'}")
        if previous == "call" and role != "tool":
            yield RowError("call_without_result", f"messages.{number}: {role} right after a tool call")
        previous = "call" if role == "assistant" and calls else role
    if previous not in ("assistant", "call"):
        yield RowError("no_answer", "row: the last message must be the assistant's")
    elif all(turn.get("weight") == 0 for turn in chat if turn["role"] == "assistant"):
        yield RowError("not_learned", "row: all its answers have weight 0")


def normalize_calls(
    chat: Chat, toolbox: Toolbox, row_tools: RowTools | None = None, notes: Notes | None = None
) -> Iterator[RowError]:
    """Bring every tool call of a chat into the form rows have, in place; yield an error for each that is invalid.

    Names become wire names, arguments an object, and results are put in the order of their calls. Without `row_tools`
    the row has no tools of its own.
    """
    row_tools, notes = row_tools or {}, notes or Notes(Path())
    for number, turn in enumerate(chat):
        if not turn.get("tool_calls"):
            continue
        calls, ids = [], []
        for position, call in enumerate(turn["tool_calls"]):
            ids.append(call.get("id") if isinstance(call, dict) else None)
            try:
                key = f"messages.{number}.tool_calls.{position}"
                calls.append(_normalize_call(call, key, toolbox, row_tools, notes))
            except RowError as error:
                yield error
        turn["tool_calls"] = calls
        yield from _order_results(chat, number, ids)


def _normalize_call(call: Any, key: str, toolbox: Toolbox, row_tools: RowTools, notes: Notes) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError("bad_arguments", f"{key}: a call is {{function: {{name, arguments}}}}")
    written = function["name"]
    tool = toolbox.find(written, row_tools)
    if tool is None:
        if row_tools:
            raise RowError("unknown_tool", f"tool {written!r} is called but not among the row's tools")
        name = dotted_name(wire_name(written))
        raise RowError("unknown_tool", f"tool {name!r} is called but not in the catalogue (data.tools)")
    if row_tools and tool.name not in row_tools:
        notes.add("tool_not_listed", f"tool {written!r} is called, and the row's own tools are others")
    arguments = _read_arguments(function.get("arguments"), f"{key}: {written}", notes)
    if violation := tool.check(arguments):
        arguments = _without_nulls(arguments, tool)
        if (after := tool.check(arguments)) is not None:
            raise RowError("bad_arguments", f"{key}: {written}: {violation if arguments else after}")
        notes.add(
            "nulls_left_out", "null arguments that the tool does not take are left out, as Arrow's tables write them"
        )
    return {"type": "function", "function": {"name": wire_name(tool.name), "arguments": arguments}}


def _read_arguments(arguments: Any, key: str, notes: Notes) -> dict[str, Any]:
    """Return a call's arguments, which may be given as JSON text, once or twice, or as Python writes a dict."""
    if arguments is None or arguments == "":
        return {}
    for _ in range(2):
        if isinstance(arguments, str):
            arguments = _parse_arguments(arguments, key, notes)
    if not isinstance(arguments, dict):
        raise RowError("bad_arguments", f"{key}: arguments are not an object: {arguments!r:.60}")
    if not is_finite(arguments):
        raise RowError("bad_arguments", f"{key}: NaN and Infinity are not JSON: write null or text")
    return arguments


def _parse_arguments(text: str, key: str, notes: Notes) -> Any:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        value = parse_python(text) if text.lstrip().startswith("{") else None
        if not isinstance(value, dict):
            raise RowError("bad_arguments", f"{key}: arguments are not JSON: {error}") from None
        notes.add("python_text", "arguments are Python literals (repr) and are read as such")
        return value
    if repeated := find_repeated_key(text.encode("utf-8", "surrogatepass"), value):
        raise RowError("bad_arguments", f"{key}: arguments contain {repeated!r} twice")
    return value


def _without_nulls(arguments: dict[str, Any], tool: KnownTool) -> dict[str, Any]:
    """Return the arguments without the nulls that the tool does not take, or without all of them."""
    properties = tool.tool.properties
    kept = {
        name: value
        for name, value in arguments.items()
        if value is not None or (name in properties and tool.check({name: None}) is None)
    }
    required = {name for name in tool.tool.required if name in arguments and arguments[name] is None}
    kept |= {name: None for name in required}
    return kept if tool.check(kept) is None else _without_any_nulls(arguments)


def _without_any_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_any_nulls(item) for key, item in value.items() if item is not None}
    return [_without_any_nulls(item) for item in value] if isinstance(value, list) else value


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
            text = f"messages.{number + 1}: tool_call_id {unmatched[0]!r} matches no call"
            yield RowError("result_without_call", text)
        elif all(result_ids):
            chat[number + 1 : end] = sorted(results, key=lambda result: ids.index(result["tool_call_id"]))


def check_choice(chat: Chat, choice: Any, parallel: Any) -> Iterator[RowError]:
    """Yield an error if the row calls tools otherwise than its `tool_choice` and `parallel_tool_calls` say."""
    turns = [turn["tool_calls"] for turn in chat if turn.get("tool_calls")]
    if parallel is False and (most := max(map(len, turns), default=0)) > 1:
        yield RowError("tool_choice", f"parallel_tool_calls is false, and a turn has {most} calls")
    if choice == "none" and turns:
        yield RowError("tool_choice", "tool_choice is 'none', and the row calls tools")
    elif choice == "required" and not turns:
        yield RowError("tool_choice", "tool_choice is 'required', and the row calls no tool")
    elif isinstance(choice, Mapping):
        function = choice.get("function", choice)
        name = function.get("name") if isinstance(function, Mapping) else None
        called = {call["function"]["name"] for calls in turns for call in calls}
        if isinstance(name, str) and to_wire(name) not in called:
            yield RowError("tool_choice", f"tool_choice is {name!r}, and the row does not call it")


def extract_text(chat: Chat) -> str:
    """Return the text of all messages of a conversation, then the arguments of its calls as JSON, a line each."""
    texts = [turn["content"] for turn in chat if turn.get("content")]
    for turn in chat:
        if turn.get("reasoning_content"):
            texts.append(turn["reasoning_content"])
        for call in turn.get("tool_calls") or ():
            texts.append(json.dumps(call["function"]["arguments"], ensure_ascii=False))
    return "\n".join(texts)
