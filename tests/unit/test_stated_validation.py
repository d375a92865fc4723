"""`data.validation`: the rows it names are the validation split, and nothing that repeats them is trained on."""

import json
from pathlib import Path

import yaml

from tuneline.configs.recipe_file import load_recipe
from tuneline.stages.fetch import fetch
from tuneline.stages.prepare import prepare
from tuneline.stages.prepare.validation import validate

TOPICS = ("the harbour", "a red kite", "three old keys", "the north window", "our broken mill", "her brother's boat")


def chat(question: str, answer: str) -> str:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns}) + "\n"


def write_recipe(folder: Path, **data: object) -> Path:
    lines = [chat(f"What do you know of {topic}, please?", f"All that {topic} ever told me.") for topic in TOPICS]
    (folder / "train rows.jsonl").write_text("".join(lines))
    (folder / "valid.jsonl").write_text(lines[1] + chat("Who wrote this small test?", "Somebody who likes tests."))
    recipe = folder / "recipe.yaml"
    settings = {"sources": [{"path": "train rows.jsonl"}], "validation": "valid.jsonl", **data}
    recipe.write_text(yaml.safe_dump({"data": settings}))
    return recipe


def questions(file: Path) -> list[str]:
    return [json.loads(line)["messages"][0]["content"] for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_file_is_the_validation_split_and_its_repeats_are_not_trained_on(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    fetch(recipe, tmp_path / "run")
    prepared = prepare(recipe, tmp_path / "run").path
    assert sorted(questions(prepared / "validation.jsonl")) == [
        "What do you know of a red kite, please?",
        "Who wrote this small test?",
    ]
    trained = questions(prepared / "train.jsonl")
    assert len(trained) == 5 and not any("red kite" in question for question in trained)


def test_rows_beyond_the_limit_are_left_out_not_trained_on(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, validation_rows=1))
    fetch(recipe, tmp_path / "run")
    prepared = prepare(recipe, tmp_path / "run").path
    assert len(questions(prepared / "validation.jsonl")) == 1
    assert "Who wrote this small test?" not in questions(prepared / "train.jsonl")


def test_validate_names_the_training_row_and_cleans_both_files(tmp_path: Path) -> None:
    result = validate([write_recipe(tmp_path)], None, tmp_path / "out", fix=True)
    assert f"{tmp_path / 'train rows.jsonl'}:2: equal to {tmp_path / 'valid.jsonl'}:1" in result.summary
    cleaned = {file.name: len(questions(file)) for file in (tmp_path / "out/cleaned").iterdir()}
    assert cleaned == {"1-valid.jsonl": 2, "2-train rows.jsonl": 5}
