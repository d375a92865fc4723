"""Datasets as they are published: whatever their layout, rows have real turns and calls, and nothing is lost unsaid."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.dataset_rows import CALL, FUNCTION, TOOL, read, said
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.formats.reader import SourceRow, read_file

WEATHER = [("user", "Weather in Rome?"), ("assistant", [("get_weather", {"city": "Rome"})])]
ANSWERED = [*WEATHER, ("tool", '{"temp": 21}'), ("assistant", "It is 21 degrees.")]
HERMES = f"You are a function calling AI model. <tools>{json.dumps(TOOL)}</tools> Return <tool_call></tool_call> tags."
TOOLACE = f"You are an expert in composing functions. Here is a list:\n[{json.dumps(FUNCTION)}]\nUse [func1(a=b)]"
GLAIVE = "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"
ASKED = {"from": "human", "value": "Weather in Rome?"}
TEMPERATURE, DEGREES = '{"temp": 21}', "It is 21 degrees."
LAYOUTS: dict[str, dict[str, Any]] = {
    "hermes": {
        "conversations": [
            {"from": "system", "value": HERMES},
            ASKED,
            {"from": "gpt", "value": f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>\n"},
            {"from": "tool", "value": f"<tool_response>\n{TEMPERATURE}\n</tool_response>"},
            {"from": "gpt", "value": DEGREES},
        ],
        "tools": json.dumps([TOOL]),
    },
    "hermes without a column, calls as Python writes them": {
        "conversations": [
            {"from": "system", "value": HERMES},
            ASKED,
            {"from": "gpt", "value": f"<tool_call>{CALL!r}</tool_call>"},
            {"from": "tool", "value": TEMPERATURE},
            {"from": "gpt", "value": DEGREES},
        ]
    },
    "toolace": {
        "system": TOOLACE,
        "conversations": [
            {"from": "user", "value": "Weather in Rome?"},
            {"from": "assistant", "value": '[get_weather(city="Rome")]'},
            {"from": "tool", "value": TEMPERATURE},
            {"from": "assistant", "value": DEGREES},
        ],
    },
    "glaive": {
        "system": GLAIVE + json.dumps(FUNCTION, indent=4),
        "chat": "USER: Weather in Rome?\n\n\nASSISTANT: <functioncall> "
        '{"name": "get_weather", "arguments": \'{"city": "Rome"}\'} <|endoftext|>\n\n\n'
        f"FUNCTION RESPONSE: {TEMPERATURE}\n\n\nASSISTANT: {DEGREES} <|endoftext|>\n\n\n",
    },
    "sharegpt": {
        "conversations": [
            ASKED,
            {"from": "function_call", "value": json.dumps(CALL)},
            {"from": "observation", "value": TEMPERATURE},
            {"from": "gpt", "value": DEGREES},
        ],
        "tools": json.dumps([FUNCTION]),
    },
    "openai": {
        "messages": [
            {"role": "user", "content": "Weather in Rome?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c", "type": "function", "function": CALL | {"arguments": json.dumps(CALL["arguments"])}}
                ],
            },
            {"role": "tool", "tool_call_id": "c", "content": {"temp": 21}},
            {"role": "assistant", "content": DEGREES},
        ],
        "tools": [TOOL],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
    },
    "openai's functions": {
        "messages": [
            {"role": "user", "content": "Weather in Rome?"},
            {"role": "assistant", "content": None, "function_call": CALL},
            {"role": "function", "name": "get_weather", "content": TEMPERATURE},
            {"role": "assistant", "content": DEGREES},
        ],
        "functions": [FUNCTION],
    },
    "openai's responses": {
        "messages": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather in Rome?"}]},
            {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": '{"city": "Rome"}'},
            {"type": "function_call_output", "call_id": "c", "output": TEMPERATURE},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": DEGREES}]},
        ],
        "tools": [{"type": "function", **FUNCTION}],
    },
    "anthropic": {
        "messages": [
            {"role": "user", "content": "Weather in Rome?"},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "t", "name": "get_weather", "input": CALL["arguments"]}],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": TEMPERATURE}]}
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": DEGREES}]},
        ],
        "tools": [{"name": "get_weather", "description": "Weather of a city", "input_schema": FUNCTION["parameters"]}],
    },
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_of_tool_calls_becomes_the_same_conversation(tmp_path: Path, name: str) -> None:
    (row,), problems = read(tmp_path, LAYOUTS[name])
    assert said(row) == ANSWERED and row.tools == ["get_weather"]
    assert {problem.kind for problem in problems} <= {"system_changed"}


@pytest.mark.parametrize(
    "row",
    [
        {"query": "Weather in Rome?", "answers": json.dumps([CALL]), "tools": json.dumps([FUNCTION])},
        {
            "question": [[{"role": "user", "content": "Weather in Rome?"}]],
            "function": [FUNCTION],
            "ground_truth": [{"get_weather": {"city": ["Rome", "Roma"]}}],
        },
        {"question": "Weather in Rome?", "function": [FUNCTION], "ground_truth": ["get_weather(city='Rome')"]},
        {"prompt": "Weather in Rome?", "completion": json.dumps([CALL]), "tools": [TOOL]},
        {
            "prompt": "Weather in Rome?",
            "completion": '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Rome"}}',
            "tools": [TOOL],
        },
        {
            "prompt": "Weather in Rome?",
            "completion": '<function=get_weather>{"city": "Rome"}</function>',
            "tools": [TOOL],
        },
        {
            "messages": [{"role": "user", "content": "Weather in Rome?"}, {"role": "assistant", "tool_calls": [CALL]}],
            "tools": [TOOL],
        },
    ],
)
def test_a_call_that_ends_a_row_is_a_call(tmp_path: Path, row: dict[str, Any]) -> None:
    (read_row,), problems = read(tmp_path, row)
    assert said(read_row) == WEATHER and not problems


def test_a_mapped_list_of_calls_is_no_text(tmp_path: Path) -> None:
    columns = {"prompt": "q", "completion": "a", "tools": "t"}
    row = {"q": "Weather in Rome?", "a": json.dumps([CALL]), "t": json.dumps([TOOL])}
    (read_row,), problems = read(tmp_path, row, columns=columns)
    assert said(read_row) == WEATHER and not problems
    del row["t"]
    (read_row,), problems = read(tmp_path, row, columns={"prompt": "q", "completion": "a"})
    assert [problem.kind for problem in problems] == ["calls_as_text"]


@pytest.mark.parametrize("values", [[json.dumps([CALL, CALL])], [json.dumps(CALL), json.dumps(CALL)]])
def test_parallel_calls_of_sharegpt_are_calls_of_one_turn(tmp_path: Path, values: list[str]) -> None:
    turns = [
        ASKED,
        *({"from": "function_call", "value": value} for value in values),
        *({"from": "observation", "value": result} for result in ("1", "2")),
        {"from": "gpt", "value": "Both."},
    ]
    (row,), problems = read(tmp_path, {"conversations": turns, "tools": json.dumps([FUNCTION])})
    assert [role for role, _ in said(row)] == ["user", "assistant", "tool", "tool", "assistant"] and not problems
    assert said(row)[1][1] == [("get_weather", {"city": "Rome"})] * 2


def test_text_beside_calls_is_kept_in_each_form(tmp_path: Path) -> None:
    user = {"role": "user", "content": "?"}
    forms: list[dict[str, Any]] = [
        {"role": "assistant", "content": "Let me see.", "tool_calls": [{"function": CALL}]},
        {"role": "assistant", "content": f"Let me see.\n<tool_call>{json.dumps(CALL)}</tool_call>"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "t", "name": "get_weather", "input": {"city": "Rome"}},
            ],
        },
    ]
    rows, problems = read(tmp_path, *({"messages": [user, form], "tools": [TOOL]} for form in forms))
    assert [said(row)[1][1] for row in rows] == [["Let me see.", ("get_weather", {"city": "Rome"})]] * 3
    assert not problems


def test_keys_that_say_what_is_learned_are_honoured(tmp_path: Path) -> None:
    def row(**keys: Any) -> dict[str, Any]:
        wrong = {"role": "assistant", "content": "WRONG"} | keys
        turns = [{"role": "user", "content": "a"}, wrong, {"role": "user", "content": "b"}]
        return {"messages": [*turns, {"role": "assistant", "content": "right", "weight": 1}]}

    zero = [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"loss_mask": 0}, {"loss": False}]
    rows, problems = read(tmp_path, *(row(**keys) for keys in zero))
    assert [[message.weight for message in one.messages] for one in rows] == [[None, 0, None, None]] * 5
    assert not problems
    rows, problems = read(tmp_path, row(weight=0.5))
    assert not rows and [problem.kind for problem in problems] == ["bad_weight"]
    nothing = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": False}]}
    rows, problems = read(tmp_path, nothing)
    assert not rows and [problem.kind for problem in problems] == ["not_learned"]


def test_thinking_is_kept_for_the_template_or_as_text(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "reasoning_content": "I add.", "content": "2"}]
    (row,), problems = read(tmp_path, {"messages": turns})
    assert row.messages[1].reasoning_content == "I add." and [problem.kind for problem in problems] == ["thinking"]
    file = tmp_path / "rows.jsonl"
    (kept,) = [one for one in read_file(file, Toolbox(None), keep_thinking=True) if isinstance(one, SourceRow)]
    assert kept.row.messages[1].content == "<think>I add.</think>\n2"


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"tool_choice": "none"}, "tool_choice is 'none'"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice is 'other'"),
        ({"parallel_tool_calls": False}, "a turn has 2 calls"),
    ],
)
def test_a_row_that_calls_otherwise_than_it_says_is_refused(tmp_path: Path, keys: dict[str, Any], problem: str) -> None:
    turns = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "tool_calls": [{"function": CALL}, {"function": CALL}]},
    ]
    rows, problems = read(tmp_path, {"messages": turns, "tools": [TOOL], **keys})
    assert not rows and problem in str(problems[0])


def test_keys_that_nothing_reads_are_told_once_a_file_with_their_count(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q", "name": "anna"}, {"role": "assistant", "content": "a", "mood": "good"}]
    rows = [{"messages": turns, "id": number, "tags": [], "extra": None} for number in range(3)]
    read_rows, problems = read(tmp_path, *rows)
    assert len(read_rows) == 3 and {problem.kind for problem in problems} == {"unused_key"}
    texts = sorted(problem.text for problem in problems)
    assert texts == [
        "'id' is not read (3 times, the first here)",
        "a turn's 'mood' is not read (3 times, the first here)",
        "a turn's 'name' is not read (user) (3 times, the first here)",
    ]


def test_no_column_is_dropped_unsaid(tmp_path: Path) -> None:
    (row,), problems = read(tmp_path, {"instruction": "q", "context": "ctx", "response": "a", "category": "x"})
    assert said(row) == [("user", "q\n\nctx"), ("assistant", "a")] and "'category'" in problems[0].text
    (row,), problems = read(tmp_path, {"Q": "q", "A": "a", "Note": "n"}, columns={"prompt": "Q", "completion": "A"})
    assert said(row) == [("user", "q"), ("assistant", "a")] and "'Note'" in problems[0].text


LLAMA_3 = (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\na<|eot_id|>"
)


@pytest.mark.parametrize(
    "row",
    [
        {"input": "q", "output": "a"},
        {"question": "q", "answer": "a"},
        {"conversation": [{"human": "q", "assistant": "a"}]},
        {"items": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"conversations": [{"from": "User", "value": "q"}, {"from": "bing", "value": "a"}]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "claude", "value": "a"}]},
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        {"text": "### Human: q### Assistant: a"},
        {"text": "<s>[INST] q [/INST] a </s>"},
        {"text": "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"},
        {"text": LLAMA_3},
        {"text": "<|user|>\nq</s>\n<|assistant|>\na</s>"},
        {"text": "\n\nHuman: q\n\nAssistant: a"},
        {"text": "USER: q ASSISTANT: a</s>"},
        {"text": "### Instruction:\nq\n\n### Response:\na"},
        {"prompt": "<s>[INST] q [/INST]", "completion": " a </s>"},
        {"messages": json.dumps([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])},
        {
            "messages": [
                {"role": "user", "content": [{"type": "input_text", "text": "q"}]},
                {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
            ]
        },
        {
            "conversations": [
                {"from": "system", "value": ""},
                {"from": "human", "value": "q"},
                {"from": "gpt", "value": "a"},
            ]
        },
        {
            "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "tools": None,
            "system": None,
        },
        {
            "messages": [{"role": "user", "content": "q", "tool_calls": None}, {"role": "assistant", "content": "a"}],
            "tools": "[]",
        },
    ],
)
def test_a_question_and_an_answer_are_read_in_every_layout(tmp_path: Path, row: Any) -> None:
    (read_row,), problems = read(tmp_path, row)
    assert said(read_row) == [("user", "q"), ("assistant", "a")]
    assert {problem.kind for problem in problems} <= {"text_as_turns"}


@pytest.mark.parametrize(
    "text", ["A price list: ### Human resources.", "He said: USER: x is wrong.", "[INST] is a tag."]
)
def test_other_text_stays_text(tmp_path: Path, text: str) -> None:
    (row,), problems = read(tmp_path, {"text": text})
    assert row.text == text and not problems


def test_a_conversation_that_is_learned_as_text_is_told(tmp_path: Path) -> None:
    (row,), problems = read(tmp_path, {"text": "### Human: q### Assistant: a"}, learn="continuation")
    assert row.text and [problem.kind for problem in problems] == ["chat_as_text"]


PAIRS: list[dict[str, Any]] = [
    {"prompt": "q", "chosen": "good", "rejected": "bad"},
    {"question": "q", "chosen": "good", "rejected": "bad", "system": "s"},
    {
        "prompt": "q",
        "chosen": {"role": "assistant", "content": "good"},
        "rejected": {"role": "assistant", "content": "bad"},
    },
    {
        "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
        "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}],
    },
    {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
    {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
    },
    {
        "input": {"messages": [{"role": "user", "content": "q"}], "tools": []},
        "preferred_output": [{"role": "assistant", "content": "good"}],
        "non_preferred_output": [{"role": "assistant", "content": "bad"}],
    },
    {"prompt": "q", "completion": "good", "label": True},
]


@pytest.mark.parametrize("pair", PAIRS)
def test_pairs_for_preference_training_are_known_and_their_chosen_answers_can_be_learned(
    tmp_path: Path, pair: dict[str, Any]
) -> None:
    rows, problems = read(tmp_path, pair)
    assert not rows and [problem.kind for problem in problems] == ["preference"] and "learn: chosen" in str(problems[0])
    (row,), problems = read(tmp_path, pair, learn="chosen")
    assert said(row)[-2:] == [("user", "q"), ("assistant", "good")] and not problems


def test_a_bad_answer_of_ktos_is_never_learned(tmp_path: Path) -> None:
    rows, problems = read(tmp_path, {"prompt": "q", "completion": "bad", "label": False}, learn="chosen")
    assert not rows and [problem.kind for problem in problems] == ["left_out"]
