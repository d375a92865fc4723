"""The judge: what it reads, how its words are counted, and that it counts for nothing before people agreed with it."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.unit.test_compare import answered, make_run
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

PASSED = {"outcome": "pass", "passed": True, "demands": 1, "reasons": ["fine"], "unmet": [], "open": []}
TARGET = "tuned-Q4_K_M"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_RUNS", str(tmp_path))
    make_run(tmp_path, "demo", {TARGET: {"unseen": answered(range(90), n=100)}})
    recipe = load_recipe(ROOT / "configs/recipes/demo.yaml")
    evaluate = recipe.evaluate.model_copy(update={"gate": Gate(judged=0.8)})
    (tmp_path / "demo/recipe.json").write_text(recipe.model_copy(update={"evaluate": evaluate}).model_dump_json())
    return tmp_path / "demo"


async def right(prompt: str) -> str:
    return "It made no call, so BAD." if "nothing " in prompt.partition("<answer>")[2] else "GOOD"


def judged(run: Path, labels: dict[Key, bool], items: int = 100) -> JudgeResult:
    answers = answers_to_judge(run / "evaluate", TARGET, items, tuple(labels))
    return asyncio.run(judge_answers(run, TARGET, "openai/m", answers, labels, right))


def truth(n: int, wrong: int = 0) -> dict[Key, bool]:
    """Of the last `n` items, of which the model has ten wrong; people see `wrong` of them otherwise than the judge."""
    return {("unseen", f"unseen-{i:04d}"): (i < 90) != (i >= 100 - wrong) for i in range(100 - n, 100)}


def test_it_counts_in_the_gate_only_with_thirty_labels(run: Path) -> None:
    assert gate.gate_of_run(run, PASSED)["outcome"] == "insufficient evidence"
    found = judged(run, truth(29))
    assert (found.n, found.share, found.labels, found.agreement) == (100, 0.9, 29, 1.0)
    told = gate.gate_of_run(run, PASSED)
    assert told["outcome"] == "insufficient evidence" and "does not count with fewer than 30 labels" in told["unmet"][0]
    judged(run, truth(30))
    told = gate.gate_of_run(run, PASSED)
    assert (
        told["outcome"] == "pass" and "agrees with people on 100% of 30 (89% to 100%, kappa 1.00)" in told["reasons"][1]
    )
    doubted = judged(run, truth(30, wrong=6))
    assert doubted.agreement == 0.8 and doubted.kappa is not None and doubted.kappa < 0.6


def test_scores_of_other_answers_do_not_count(run: Path) -> None:
    found = judged(run, truth(30))
    (run / "judge.json").write_text(found.model_copy(update={"evaluate": "other"}).model_dump_json())
    told = gate.gate_of_run(run, PASSED)
    assert told["outcome"] == "insufficient evidence" and "other answers were judged" in told["unmet"][0]


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


def test_it_reads_no_name_and_its_last_word_counts(run: Path) -> None:
    prompt = judge_prompt(answered(range(1), n=1)[0])
    assert "request 0" in prompt and "email.send" in prompt and "tuned" not in prompt
    assert [parse_verdict(w) for w in ("GOOD", "bad.", "**Good**", "not good: BAD", "", "maybe")] == [
        *(True, False, True, False, None, None)
    ]


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
    assert "which model judges" in str(CliRunner().invoke(app, ["judge", "demo"]).exception)
