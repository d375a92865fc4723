"""Any conversation, written in any format, is read as it was, and all of it is in what the model reads."""

import json
import keyword
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tuneline.core.paths import ROOT
from tuneline.stages.prepare.checks.problems import Problem
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.formats.call_text import may_hold_calls
from tuneline.stages.prepare.formats.reader import SourceRow, read_file
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.prepare.rows import Row

Turn = tuple[str, str, list[tuple[str, dict[str, Any]]]]
"""(role, what is said, the calls) of a turn of the conversation that all formats write."""
CHARACTERS = st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"], include_characters="\n")
TEXTS = st.text(CHARACTERS, min_size=1, max_size=40).map(str.strip).filter(lambda text: _is_plain(text))
NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_-]{0,20}", fullmatch=True)
ARGUMENT_NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))
VALUES = st.recursive(
    st.booleans() | st.integers(-(10**24), 10**24) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ARGUMENT_NAMES, inner, max_size=3),
    max_leaves=6,
)


def _is_plain(text: str) -> bool:
    """Return whether a text is no mark of any format."""
    return (
        bool(text)
        and not may_hold_calls(text)
        and not any(mark in text for mark in ("[", "<", "###", "Human:", "USER"))
    )


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[Turn], list[dict[str, Any]]]:
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    tools = [
        {
            "name": name,
            "description": draw(TEXTS),
            "parameters": {"type": "object", "properties": {}, "additionalProperties": True},
        }
        for name in names
    ]
    turns: list[Turn] = [("system", draw(TEXTS), [])] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns.append(("user", draw(TEXTS), []))
        if draw(st.booleans()):
            arguments = st.dictionaries(ARGUMENT_NAMES, VALUES, max_size=3)
            calls = draw(st.lists(st.tuples(st.sampled_from(names), arguments), min_size=1, max_size=3))
            turns.append(("assistant", draw(TEXTS | st.just("")), calls))
            turns += [("tool", json.dumps({"result": draw(TEXTS)}, ensure_ascii=False), []) for _ in calls]
        turns.append(("assistant", draw(TEXTS), []))
    return turns, tools


def openai(turns: list[Turn], tools: list[dict[str, Any]]) -> Any:
    messages: list[dict[str, Any]] = []
    for role, text, calls in turns:
        message: dict[str, Any] = {"role": role, "content": text or None}
        if calls:
            message["tool_calls"] = [
                {"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
                for n, (name, arguments) in enumerate(calls)
            ]
        messages.append(message)
    return {"messages": messages, "tools": [{"type": "function", "function": tool} for tool in tools]}


def responses(turns: list[Turn], tools: list[dict[str, Any]]) -> Any:
    items: list[dict[str, Any]] = []
    kinds = {"assistant": "output_text"}
    for role, text, calls in turns:
        if role == "tool":
            waiting = [item["call_id"] for item in items if item.get("type") == "function_call"]
            answered = sum(item.get("type") == "function_call_output" for item in items)
            items.append({"type": "function_call_output", "call_id": waiting[answered], "output": text})
        elif text:
            part = {"type": kinds.get(role, "input_text"), "text": text}
            items.append({"type": "message", "role": role, "content": [part]})
        for name, arguments in calls:
            call = {
                "type": "function_call",
                "call_id": f"c{len(items)}",
                "name": name,
                "arguments": json.dumps(arguments),
            }
            items.append(call)
    return {"messages": items, "tools": [{"type": "function", **tool} for tool in tools]}


def anthropic(turns: list[Turn], tools: list[dict[str, Any]]) -> Any:
    messages: list[dict[str, Any]] = []
    row: dict[str, Any] = {}
    ids: list[str] = []
    for role, text, calls in turns:
        if role == "system":
            row["system"] = text
        elif role == "tool":
            block = {"type": "tool_result", "tool_use_id": ids.pop(0), "content": text}
            if messages[-1]["role"] == "user":
                messages[-1]["content"].append(block)
            else:
                messages.append({"role": "user", "content": [block]})
        else:
            ids += [f"t{len(messages)}-{n}" for n in range(len(calls))]
            used = [
                {"type": "tool_use", "id": identity, "name": name, "input": arguments}
                for identity, (name, arguments) in zip(ids, calls, strict=False)
            ]
            messages.append({"role": role, "content": [*([{"type": "text", "text": text}] if text else []), *used]})
    described = [{**tool, "input_schema": tool["parameters"]} for tool in tools]
    return row | {
        "messages": messages,
        "tools": [{k: v for k, v in tool.items() if k != "parameters"} for tool in described],
    }


def sharegpt(turns: list[Turn], tools: list[dict[str, Any]]) -> Any:
    names = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
    values: list[dict[str, Any]] = []
    for role, text, calls in turns:
        values += [{"from": names[role], "value": text}] if text else []
        values += [
            {"from": "function_call", "value": json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)}
            for name, arguments in calls
        ]
    return {"conversations": values, "tools": json.dumps(tools)}


def hermes(turns: list[Turn], tools: list[dict[str, Any]]) -> Any:
    names = {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"}
    values: list[dict[str, Any]] = []
    for role, text, calls in turns:
        tagged = [
            f"<tool_call>\n{json.dumps({'arguments': arguments, 'name': name}, ensure_ascii=False)}\n</tool_call>"
            for name, arguments in calls
        ]
        text = f"<tool_response>\n{text}\n</tool_response>" if role == "tool" else text
        values.append({"from": names[role], "value": "\n".join([*([text] if text else []), *tagged])})
    return {"conversations": values, "tools": json.dumps([{"type": "function", "function": tool} for tool in tools])}


def toolace(turns: list[Turn], tools: list[dict[str, Any]]) -> Any:
    assume(not any(text for _, text, calls in turns if calls))  # it has no text beside calls
    values: list[dict[str, Any]] = []
    for role, text, calls in turns:
        written = [
            f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})" for name, arguments in calls
        ]
        values.append({"from": role, "value": f"[{', '.join(written)}]" if calls else text})
    return {"conversations": values, "tools": json.dumps(tools)}


FORMATS: list[Callable[[list[Turn], list[dict[str, Any]]], Any]] = [
    openai,
    responses,
    anthropic,
    sharegpt,
    hermes,
    toolace,
]


def read(row: Any, container: str) -> tuple[Row, list[Problem]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"rows.{container}"
        text = json.dumps(row, ensure_ascii=container == "json")
        file.write_text(f"[{text}]" if container == "json" else f"{text}\n", encoding="utf-8")
        results = list(read_file(file, Toolbox(None)))
    problems = [result for result in results if isinstance(result, Problem)]
    rows = [result.row for result in results if isinstance(result, SourceRow)]
    assert len(rows) == 1, problems
    return rows[0], problems


def said(row: Row) -> list[Turn]:
    return [
        (
            message.role,
            message.content or "",
            [(c.function.name, c.function.arguments) for c in message.tool_calls or ()],
        )
        for message in row.messages
    ]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(ROOT / "data/tiny", None)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(conversation=conversations(), write=st.sampled_from(FORMATS), container=st.sampled_from(["jsonl", "json"]))
def test_a_conversation_is_read_as_it_was_from_every_format(
    conversation: tuple[list[Turn], list[dict[str, Any]]], write: Any, container: str
) -> None:
    turns, tools = conversation
    row, problems = read(write(turns, tools), container)
    assert said(row) == turns
    assert {problem.kind for problem in problems} <= {"wrong_order", "personal_data", "mojibake", "bad_character"}
    names = [tool if isinstance(tool, str) else tool["function"]["name"] for tool in row.tools]
    assert [name.replace(".", "__") for name in names] == [tool["name"] for tool in tools]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(conversation=conversations(), write=st.sampled_from(FORMATS))
def test_what_is_rendered_holds_all_of_the_row(
    renderer: Renderer, conversation: tuple[list[Turn], list[dict[str, Any]]], write: Any
) -> None:
    turns, tools = conversation
    turns = [(role, "" if calls else text, calls) for role, text, calls in turns]
    row, _ = read(write(turns, tools), "jsonl")
    catalogue = Toolbox(None)
    catalogue.read_tools(tools, _notes())
    renderer.catalogue = catalogue.catalogue
    rendered = renderer.text(row)[0]
    for _, text, calls in turns:
        assert text in rendered
        for name, arguments in calls:
            assert f'"name": "{name}"' in rendered and json.dumps(arguments, ensure_ascii=False) in rendered
    for tool in tools:
        assert f"{tool['name']}(" in rendered


def _notes() -> Any:
    from tuneline.stages.prepare.checks.notes import Notes

    return Notes(Path())
