"""inspect-ai and lm-eval are extras: with them, the same items and marks; without, a line that says what to install."""

import json
from pathlib import Path
from typing import Any

import pytest

from tuneline.configs.catalogue import Catalogue, Tool
from tuneline.configs.evaluation import Standard, Suite
from tuneline.core.errors import BadRequest, StageFailed
from tuneline.stages.evaluate.clients import lm_eval_tasks
from tuneline.stages.evaluate.suites.run_context import RunContext

TOOLS = Catalogue(
    tools={
        name: Tool(description=name, parameters={"type": "object", "properties": {"n": {"type": "integer"}}})
        for name in ("docs.create", "rag.search")
    }
)


def test_inspect_asks_the_same_and_marks_alike(tmp_path: Path) -> None:
    inspect_ai = pytest.importorskip("inspect_ai")
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    from tuneline.stages.evaluate.clients.inspect_tasks import make_task

    suite = Suite.model_validate(
        {
            "name": "both",
            "items": [
                {"ask": "make", "call": "docs.create", "arguments": {"n": 5}},
                {"ask": "find", "call": "rag.search", "arguments": {"n": 5}},
                {"ask": "who?", "says": ["zantara"], "tools": False, "then": [{"ask": "sure?", "says": ["zantara"]}]},
            ],
        }
    )
    outputs = [
        ModelOutput.for_tool_call("m", "docs__create", {"n": 5.0}),
        ModelOutput.for_tool_call("m", "rag__search", {"n": 6}),
        ModelOutput.from_content("m", "I am Zantara."),
        ModelOutput.from_content("m", "No, I am somebody else."),
    ]
    for output in outputs:  # without a count it would fetch a tokenizer to make one
        output.usage = ModelUsage(input_tokens=5, output_tokens=4, total_tokens=9)
    model = get_model("mockllm/model", custom_outputs=outputs)
    (log,) = inspect_ai.eval(
        make_task(suite, RunContext(TOOLS)), model=model, log_dir=str(tmp_path), display="none", max_samples=1
    )
    assert log.status == "success", log.error
    values = [(s.scores["_marked"].value["name_correct"], s.scores["_marked"].value["exact"]) for s in log.samples]
    assert values == [(1, 1), (1, 0), (0.5, 0.5)]
    assert log.samples[2].scores["_marked"].explanation == "not named: zantara"
    assert [message.role for message in log.samples[2].messages] == ["user", "assistant", "user", "assistant"]


def test_inspect_asks_logged_chats(tmp_path: Path) -> None:
    inspect_ai = pytest.importorskip("inspect_ai")
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    from tuneline.stages.evaluate.clients.inspect_tasks import make_task

    call = {"id": "a", "type": "function", "function": {"name": "docs__create", "arguments": '{"n": 5}'}}
    chats: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Yes."}],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "make five"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "a", "content": "done"},
            {"role": "assistant", "content": "Made."},
        ],
    ]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    outputs = [ModelOutput.from_content("m", "yes"), ModelOutput.from_content("m", "No.")]
    for output in outputs:
        output.usage = ModelUsage(input_tokens=5, output_tokens=4, total_tokens=9)
    model = get_model("mockllm/model", custom_outputs=outputs)
    suite = Suite.model_validate({"name": "logged", "path": str(tmp_path / "chats.jsonl")})
    task = make_task(suite, RunContext(TOOLS), "You help.")
    (log,) = inspect_ai.eval(task, model=model, log_dir=str(tmp_path), display="none", max_samples=1)
    assert log.status == "success", log.error
    assert [sample.scores["_marked"].value["name_correct"] for sample in log.samples] == [1, 0]
    roles = [[message.role for message in sample.messages] for sample in log.samples]
    assert roles == [["system", "user", "assistant"], ["system", "user", "assistant", "tool", "assistant"]]
    assert log.samples[1].messages[0].content == "Be brief."


def test_without_lm_eval_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval_tasks, "find_spec", lambda _: None)
    with pytest.raises(BadRequest, match=r"gsm8k: needs lm-eval; `pip install 'tuneline\[standard\]'`"):
        lm_eval_tasks.require_lm_eval(Standard(tasks=("gsm8k",)))


RESULTS = {
    "results": {"mine": {"alias": "mine", "exact_match,none": 0.25, "exact_match_stderr,none": 0.1, "name": "mine"}},
    "n-samples": {"mine": {"original": 40, "effective": 20}},
}


def test_results_become_rows_and_what_was_asked_is_not_asked_again(tmp_path: Path) -> None:
    (tmp_path / "standard").mkdir()
    (tmp_path / "standard/base.json").write_text(json.dumps(RESULTS))
    rows = lm_eval_tasks.ask_standard(Standard(tasks=("mine",)), "http://127.0.0.1:9/v1", "base", tmp_path, 4)
    assert rows == [
        {"target": "base", "task": "mine", "metric": "exact_match,none", "value": 0.25, "stderr": 0.1, "n": 20}
    ]


def test_what_lm_eval_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval_tasks.sys, "executable", "false")
    with pytest.raises(StageFailed, match=r"standard: mine: lm-eval failed.*\n.*\n?Data must be on this machine"):
        lm_eval_tasks.ask_standard(Standard(tasks=("mine",)), "http://127.0.0.1:9/v1", "base", tmp_path, 4)
