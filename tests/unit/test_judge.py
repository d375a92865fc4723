"""The judge: what it reads, how its words are counted, and that it counts for nothing before people agreed with it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.runs import PASSED as GATE
from tests.runs import make_evaluate, make_run, remove
from tests.unit.test_compare import answered
from tuneline.cli import app
from tuneline.configs.evaluation import Gate
from tuneline.configs.recipe_file import load_recipe
from tuneline.core import artifacts
from tuneline.core.errors import BadData
from tuneline.core.paths import ROOT
from tuneline.stages.evaluate.scoring.llm_judge import (
    JudgeResult,
    Key,
    answers_to_judge,
    judge_answers,
    judge_prompt,
    parse_verdict,
    read_labels,
)
from tuneline.stages.evaluate.verdicts import gate

TARGET = "tuned-Q4_K_M"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_RUNS", str(tmp_path))
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    recipe = load_recipe(ROOT / "configs/recipes/demo.yaml")
    evaluate = recipe.evaluate.model_copy(update={"gate": Gate(judged=0.8)})
    recipe = recipe.model_copy(update={"evaluate": evaluate})
    answers = {TARGET: {"unseen": answered(range(90), n=100)}}
    return make_run(tmp_path / "demo", recipe, GATE, answers)


def gate_now(run: Path) -> dict[str, Any]:
    return gate.gate_of_run(run, artifacts.open_artifact(run / "evaluate").metrics["gate"])


async def right(prompt: str) -> str:
    return "It made no call, so BAD." if "nothing " in prompt.partition("<answer>")[2] else "GOOD"


def judged(run: Path, labels: dict[Key, bool], items: int = 100) -> JudgeResult:
    answers = answers_to_judge(run / "evaluate", TARGET, items, tuple(labels))
    return asyncio.run(judge_answers(run, TARGET, "openai/m", answers, labels, right))


def truth(n: int, wrong: int = 0) -> dict[Key, bool]:
    """Of the last `n` items, of which the model has ten wrong; people see `wrong` of them otherwise than the judge."""
    return {("unseen", f"unseen-{i:04d}"): (i < 90) != (i >= 100 - wrong) for i in range(100 - n, 100)}


def test_it_counts_in_the_gate_only_with_thirty_labels(run: Path) -> None:
    assert gate_now(run)["outcome"] == "insufficient evidence"
    found = judged(run, truth(29))
    assert (found.n, found.share, found.labels, found.agreement) == (100, 0.9, 29, 1.0)
    told = gate_now(run)
    assert told["outcome"] == "insufficient evidence" and "does not count with fewer than 30 labels" in told["unmet"][0]
    judged(run, truth(30))
    told = gate_now(run)
    assert (
        told["outcome"] == "pass" and "agrees with people on 100% of 30 (89% to 100%, kappa 1.00)" in told["reasons"][1]
    )
    doubted = judged(run, truth(30, wrong=6))
    assert doubted.agreement == 0.8 and doubted.kappa is not None and doubted.kappa < 0.6


def test_scores_of_other_answers_do_not_count(run: Path) -> None:
    """Not even of the same model: evaluated again from the same settings, it gave other answers."""
    judged(run, truth(30))
    assert gate_now(run)["outcome"] == "pass"
    answers = {TARGET: {"unseen": answered(range(80), n=100)}}
    remove(run, "evaluate")
    make_evaluate(run, GATE, answers)
    told = gate_now(run)
    assert told["outcome"] == "insufficient evidence" and "other answers were judged" in told["unmet"][0]
    assert judged(run, truth(30)).share == 0.8


def test_scores_of_another_file_do_not_count(run: Path) -> None:
    found = judged(run, truth(30))
    (run / "judge.json").write_text(found.model_copy(update={"target": "tuned-F16"}).model_dump_json())
    assert "other answers were judged" in gate_now(run)["unmet"][0]


def test_a_second_call_asks_only_what_is_missing(run: Path) -> None:
    judged(run, {}, items=60)
    asked = []

    async def counted(prompt: str) -> str:
        asked.append(prompt)
        return await right(prompt)

    (scores,) = (run / "judge").glob("*.jsonl")
    scores.write_text(scores.read_text()[:-9])  # a crash cut the last line off
    answers = answers_to_judge(run / "evaluate", TARGET, 100)
    found = asyncio.run(judge_answers(run, TARGET, "openai/m", answers, {}, counted))
    assert len(asked) == 41 and found.n == 100 and found.agreement is None


def test_it_reads_no_name(run: Path) -> None:
    prompt = judge_prompt(answered(range(1), n=1)[0])
    assert "request 0" in prompt and "email.send" in prompt and "tuned" not in prompt


@pytest.mark.parametrize(
    ("verdict", "replies"),
    [
        (
            True,
            [
                "GOOD",
                "good.",
                "**Good**",
                "Verdict: GOOD",
                "Verdict - GOOD",
                "It calls the right tool.\n\nGOOD",
                "</think> GOOD!",
            ],
        ),
        (False, ["BAD", "bad.", "*Bad*", "not good: BAD", "It made no call. BAD", "It is good Italian. But: BAD"]),
        (
            None,
            ["NOT GOOD", "Not good.", "This is not GOOD", "It isn't good", "NOT BAD", "GOOD, not BAD", "neither GOOD"],
        ),
        (
            None,
            ["", "maybe", "GOOD or BAD", "GOOD or BAD?", "it made no call, so BAD", "GOOD\nor so I think", "goodish"],
        ),
        (None, ["Not\nGOOD", "It is not: GOOD", "no. GOOD", "It's hardly\n**GOOD**"]),
    ],
)
def test_only_a_word_that_stands_alone_is_a_verdict(verdict: bool | None, replies: list[str]) -> None:
    assert {reply: parse_verdict(reply) for reply in replies} == dict.fromkeys(replies, verdict)


def test_what_cannot_be_read_counts_as_bad_and_is_told(run: Path) -> None:
    async def doubtful(prompt: str) -> str:
        return "NOT GOOD"

    answers = answers_to_judge(run / "evaluate", TARGET, 100)
    found = asyncio.run(judge_answers(run, TARGET, "openai/m", answers, {}, doubtful))
    assert (found.share, found.unreadable) == (0.0, 100) and "100 replies were neither GOOD nor BAD" in found.summary


def test_the_sheet_is_for_people_to_fill_in(run: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.jsonl"
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["judge", "demo", "--sheet", str(sheet), "--items", "40"])
    assert done.exit_code == 0 and "--labels" in done.output
    rows = [json.loads(line) for line in sheet.read_text().splitlines()]
    assert len(rows) == 40 and read_labels(sheet) == {}
    sheet.write_text("".join(json.dumps(row | {"good": True}) + "\n" for row in rows[:7]))
    assert len(read_labels(sheet)) == 7
    sheet.write_text(json.dumps(rows[0] | {"good": "yes"}))
    with pytest.raises(BadData, match="sheet.jsonl:1: not a label: good is 'yes'"):
        read_labels(sheet)
    with pytest.raises(BadData, match="has no such answer"):
        answers_to_judge(artifacts.open_artifact(run / "evaluate").path, TARGET, 5, (("unseen", "none"),))
    assert "required, as in" in str(CliRunner().invoke(app, ["judge", "demo"]).exception)
