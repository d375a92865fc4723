"""What can be known before training is said before it: starts, suites, styles, and test questions in training."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tuneline.cli import app
from tuneline.configs.recipe import RECIPE, Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.errors import BadRecipe, BadRequest, NotFound, TunelineError
from tuneline.core.paths import ROOT
from tuneline.stages.early_checks import find_shortcomings, list_test_questions, refuse_early
from tuneline.stages.fetch import fetch
from tuneline.stages.prepare import prepare
from tuneline.stages.prepare.validation import validate

QUESTIONS = [f"what does plan number {i} cost a month?" for i in range(12)]


def chat(*turns: str) -> str:
    roles = ("user", "assistant")
    return json.dumps({"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]}) + "\n"


def write_recipe(folder: Path, **sections: Any) -> Path:
    transcripts = [chat(q, f"{i} euros", "and a year?", f"{12 * i} euros") for i, q in enumerate(QUESTIONS)]
    (folder / "train.jsonl").write_text("".join(transcripts))
    (folder / "heldout.jsonl").write_text("".join(chat(q.upper(), f"{i} euros") for i, q in enumerate(QUESTIONS)))
    data = {"sources": [{"path": "train.jsonl"}]} | sections.pop("data", {})
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({"data": data} | sections))
    return file


def test_questions_of_held_out_chats_are_found_where_a_transcript_goes_on(tmp_path: Path) -> None:
    """No chat of the file equals a training row: all twelve were asked in training, and nothing said so."""
    result = validate([write_recipe(tmp_path, data={"held_out": ["heldout.jsonl"]})], None, tmp_path / "out")
    assert (
        "asked in training: 12" in result.summary
        and "12 times: its question is also in the training data" in result.summary
    )
    assert (
        f"{tmp_path / 'heldout.jsonl'}:1: its question is also in the training data: {tmp_path / 'train.jsonl'}:1"
        in (result.summary)
    )
    assert "WHAT DOES PLAN NUMBER 0 COST" in result.summary


def test_requests_of_suites_are_looked_for_too(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, evaluate={"suites": [{"path": "heldout.jsonl"}]})
    done = CliRunner().invoke(app, ["validate", str(recipe), "--to", str(tmp_path / "out")])
    assert "suite heldout: its question is also in the training data" in done.output


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"train": {"init_from": "nobody"}}, NotFound, "tuneline runs ls"),
        ({"train": {"init_from": "first", "rank": 8}}, BadRecipe, "its train.rank is 16, this recipe's 8"),
        ({"evaluate": {"suites": [{"path": "bad.jsonl"}]}}, BadRecipe, "bad.jsonl:1"),
        ({"train": {"init_from": "first"}}, None, ""),
    ],
)
def test_what_would_end_the_run_after_training_is_refused_before(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    error: type[TunelineError] | None,
    says: str,
) -> None:
    monkeypatch.setenv("TUNELINE_RUNS", str(tmp_path / "runs"))
    (tmp_path / "bad.jsonl").write_text(chat("no answer"))
    recipe = load_recipe(write_recipe(tmp_path))
    (tmp_path / "runs/first").mkdir(parents=True)
    (tmp_path / "runs/first" / RECIPE).write_text(recipe.model_dump_json())
    changed_recipe = load_recipe(write_recipe(tmp_path, **changed))
    if error is None:
        refuse_early(changed_recipe)
        return
    with pytest.raises(error) as refusal:
        refuse_early(changed_recipe)
    assert says in str(refusal.value)


def test_tools_that_no_suite_asks_for_are_named(tmp_path: Path) -> None:
    suite = {"name": "one", "items": [{"ask": "mail Ana", "call": "email.send"}]}
    tools = {"tools": str(ROOT / "configs/tools/handlers.yaml")}
    (line,) = find_shortcomings(
        load_recipe(write_recipe(tmp_path, data=tools, evaluate={"suites": [suite], "gate": {}}))
    )
    assert "tools are not covered by any suite" in line and "email.send" not in line
    assert not list(find_shortcomings(load_recipe(write_recipe(tmp_path, data=tools, evaluate={"suites": [suite]}))))


def test_a_suite_that_calls_an_unknown_tool_is_refused_with_the_nearest(tmp_path: Path) -> None:
    suite = {"name": "one", "items": [{"ask": "mail Ana", "call": "email.sent"}]}
    tools = {"tools": str(ROOT / "configs/tools/handlers.yaml")}
    with pytest.raises(BadRecipe, match=r"one: call: 'email.sent' is not in the catalogue .*did you mean 'email.send'"):
        refuse_early(load_recipe(write_recipe(tmp_path, data=tools, evaluate={"suites": [suite]})))


@pytest.mark.parametrize(("items", "lines"), [(28, 1), (29, 0)])
def test_a_floor_that_no_answers_can_reach_is_named(tmp_path: Path, items: int, lines: int) -> None:
    """Clopper and Pearson: with n of n right the bound is 0.05 ** (1 / n), 0.8985 for 28 and 0.9019 for 29."""
    suite = {"name": "one", "floor": 0.9, "items": [{"ask": [f"mail {n}" for n in range(items)], "says": ["yes"]}]}
    shortcomings = list(find_shortcomings(load_recipe(write_recipe(tmp_path, evaluate={"suites": [suite]}))))
    assert len(shortcomings) == lines and all("28 items cannot prove a floor of 0.9" in line for line in shortcomings)


def styled_recipe(folder: Path, documents: int) -> Path:
    for style in ("plain", "epic"):
        (folder / "texts" / style).mkdir(parents=True)
        for number in range(documents):
            text = f"A text in the {style} style, number {number}, about {style} things of day {number * 7}."
            (folder / "texts" / style / f"{number}.txt").write_text(text)
    suites = {"suites": ["configs/suites/style.yaml"]}
    return write_recipe(folder, data={"sources": [{"path": "texts", "style": "folder"}]}, evaluate=suites)


def test_a_style_with_too_few_held_out_passages_is_an_error_before_training(tmp_path: Path) -> None:
    file = styled_recipe(tmp_path, documents=5)
    result = validate([file], None, tmp_path / "out")
    assert not result.passed and "needs 2 held-out passages of two styles; there are epic" in result.summary
    recipe: Recipe = load_recipe(file)
    fetch(recipe, tmp_path / "run")
    with pytest.raises(BadRecipe, match="needs 2 held-out passages of two styles"):
        prepare(recipe, tmp_path / "run")
    enough = styled_recipe(tmp_path / "more", documents=60)
    assert "few passages" not in validate([enough], None, tmp_path / "out").summary


def test_suites_that_need_a_run_are_left_to_it(tmp_path: Path) -> None:
    suites = [f"configs/suites/{name}.yaml" for name in ("style", "long_context", "pricing")]
    recipe = load_recipe(write_recipe(tmp_path, evaluate={"suites": suites}))
    refuse_early(recipe)
    assert {question.file for question in list_test_questions(recipe)} == {"suite pricing"}


def test_a_hosted_targets_missing_key_is_reported_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    monkeypatch.setattr("tuneline.engines.llama_cpp.build.find_llama_cpp", lambda: tmp_path)
    target = {"name": "today", "provider": "groq", "model": "llama", "usd_per_million_input": 0}
    recipe = write_recipe(tmp_path, evaluate={"targets": [target | {"usd_per_million_output": 0}]})
    error = CliRunner().invoke(app, ["run", str(recipe)]).exception
    assert isinstance(error, BadRequest) and "GROQ_API_KEY is not set" in str(error)
    assert not (tmp_path / "runs").exists()


def test_few_rows_with_the_default_warm_up_are_named_by_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a job of OpenAI's with 12 examples, which states no warm-up."""
    monkeypatch.setenv("TUNELINE_RUNS", str(tmp_path / "runs"))
    write_recipe(tmp_path)
    (tmp_path / "job.json").write_text(json.dumps({"model": "gpt", "training_file": "train.jsonl"}))
    recipe = tmp_path / "migrated.yaml"
    commands = (["migrate", str(tmp_path / "job.json"), "--base", "tiny", "--to", str(recipe)], ["plan", str(recipe)])
    done = [CliRunner().invoke(app, words, catch_exceptions=False) for words in commands][-1]
    assert "train.warmup_steps: 20: the training has 1 step" in done.stderr.replace("\n", " ")


def test_a_base_that_fetch_will_refuse_is_named_by_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is known from models.yaml, so it is planned; its commit is not, and the error names no unused folder."""
    monkeypatch.setenv("TUNELINE_RUNS", str(tmp_path / "runs"))
    recipe = write_recipe(tmp_path)
    recipe.write_text("base: meta-llama/Llama-3.1-8B-Instruct\n" + recipe.read_text())
    done = CliRunner().invoke(app, ["plan", str(recipe)], catch_exceptions=False)
    warning = done.stderr.splitlines()[0]
    assert "`tuneline fetch` will refuse this recipe: base: 'meta-llama" in warning and "needs its commit" in warning
    assert str(ROOT) not in done.stderr
