"""Turns of a dataset's conversations: their order, empty and structured ones, and rows that are not trained on."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.dataset_rows import CALL, TOOL, read, said
from tuneline.stages.prepare.checks.problems import KINDS


def turns_of(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": f"{role} {number}"} for number, role in enumerate(roles)]


@pytest.mark.parametrize(
    ("roles", "kept", "what"),
    [
        (["user", "user", "assistant"], ["user", "assistant"], "joined"),
        (["user", "assistant", "assistant"], ["user", "assistant"], "joined"),
        (["system", "system", "user", "assistant"], ["system", "user", "assistant"], "joined"),
        (["user", "assistant", "user"], ["user", "assistant"], "left out"),
        (["assistant", "user", "assistant"], ["assistant", "user", "assistant"], "not trained on"),
        (
            ["user", "assistant", "system", "user", "assistant"],
            ["user", "assistant", "system", "user", "assistant"],
            "kept",
        ),
    ],
)
def test_an_odd_order_is_told_with_what_was_done(tmp_path: Path, roles: list[str], kept: list[str], what: str) -> None:
    (row,), (problem,) = read(tmp_path, {"messages": turns_of(*roles)})
    assert [message.role for message in row.messages] == kept and what in problem.text and problem.line == 1
    assert KINDS[problem.kind].severity == "warning"
    texts = "\n".join(message.content or "" for message in row.messages)
    assert all(turn["content"] in texts for turn in turns_of(*roles)[: 2 if what == "left out" else None])


def test_the_last_answer_of_what_begins_with_one_is_learned_alone(tmp_path: Path) -> None:
    (row,), _ = read(tmp_path, {"messages": turns_of("assistant", "user", "assistant")})
    assert [message.weight for message in row.messages] == [0, None, None]


@pytest.mark.parametrize("content", ["", None])
def test_a_tool_may_answer_with_nothing(tmp_path: Path, content: Any) -> None:
    turns = [
        {"role": "user", "content": "delete it"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "function": CALL}]},
        {"role": "tool", "tool_call_id": "c", "content": content},
        {"role": "assistant", "content": "Done."},
    ]
    (row,), problems = read(tmp_path, {"messages": turns, "tools": [TOOL]})
    assert row.messages[2].content == "" and not problems


@pytest.mark.parametrize("arguments", [None, "", "{}", {}, '"{}"'])
def test_no_arguments_are_an_empty_object(tmp_path: Path, arguments: Any) -> None:
    ping = {"name": "ping", "description": "", "parameters": {"type": "object", "properties": {}}}
    call = {"function": {"name": "ping", "arguments": arguments}}
    turns = [{"role": "user", "content": "ping"}, {"role": "assistant", "tool_calls": [call]}]
    (row,), problems = read(tmp_path, {"messages": turns, "tools": [ping]})
    assert said(row)[1][1] == [("ping", {})] and not problems


@pytest.mark.parametrize(
    ("result", "text"), [({"t": 20}, '{"t": 20}'), ([{"t": 20}], '[{"t": 20}]'), (20, "20"), (True, "true")]
)
def test_a_result_that_is_json_is_its_text(tmp_path: Path, result: Any, text: str) -> None:
    turns = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "tool_calls": [{"function": CALL}]},
        {"role": "tool", "content": result},
        {"role": "assistant", "content": "20"},
    ]
    (row,), problems = read(tmp_path, {"messages": turns, "tools": [TOOL]})
    assert row.messages[2].content == text and not problems


def test_results_of_several_calls_in_one_turn_are_told_apart(tmp_path: Path) -> None:
    calls = "".join(f"<tool_call>{json.dumps(CALL)}</tool_call>" for _ in range(2))
    for result in ("<tool_response>1</tool_response>\n<tool_response>2</tool_response>", '["1", "2"]'):
        turns = [
            {"from": "human", "value": "?"},
            {"from": "gpt", "value": calls},
            {"from": "tool", "value": result},
            {"from": "gpt", "value": "ok"},
        ]
        (row,), problems = read(tmp_path, {"conversations": turns, "tools": [TOOL]})
        assert [text for role, text in said(row) if role == "tool"] == ["1", "2"] and not problems


def test_a_system_prompt_beside_the_turns_is_their_first(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    for system in ("be brief", [{"type": "text", "text": "be brief"}]):
        (row,), problems = read(tmp_path, {"system": system, "messages": turns})
        assert said(row)[0] == ("system", "be brief") and len(row.messages) == 3 and not problems


@pytest.mark.parametrize("keys", [{"weight": 0}, {"train": False}])
def test_a_row_that_is_not_to_be_learned_is_left_out_and_told(tmp_path: Path, keys: dict[str, Any]) -> None:
    rows, problems = read(tmp_path, {"prompt": "q", "completion": "a", **keys}, {"prompt": "r", "completion": "b"})
    assert len(rows) == 1 and [(problem.kind, problem.line) for problem in problems] == [("left_out", 1)]


@pytest.mark.parametrize("label", [True, "True", 1])
def test_ktos_label_is_known_as_tables_write_it(tmp_path: Path, label: Any) -> None:
    (row,), problems = read(tmp_path, {"prompt": "q", "completion": "a", "label": label}, learn="chosen")
    assert said(row) == [("user", "q"), ("assistant", "a")] and not problems
