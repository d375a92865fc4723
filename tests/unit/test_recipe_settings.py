"""A recipe's settings: where its paths lead, what it extends, what `--set` changes, and keys of other trainers."""

import json
import logging
from pathlib import Path

import pytest

from tuneline.configs.known_keys import OTHER_TRAINERS, list_settings
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.errors import TunelineError

ROW = json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]})


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def test_paths_start_at_the_recipe_then_at_the_current_folder_with_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = write(tmp_path / "my project/first try.yaml", "data: {sources: [{path: my rows.jsonl}]}")
    here = write(tmp_path / "elsewhere/my rows.jsonl", ROW)
    monkeypatch.chdir(here.parent)
    with caplog.at_level(logging.WARNING):
        assert load_recipe(recipe).data.sources[0].path == here
    assert "my rows.jsonl" in caplog.text and "current folder" in caplog.text
    caplog.clear()
    beside = write(recipe.parent / "my rows.jsonl", ROW)
    loaded = load_recipe(recipe)
    assert (loaded.data.sources[0].path, loaded.name, caplog.text) == (beside, "first-try", "")


def test_files_of_a_suite_and_a_base_are_looked_up_beside_the_file_that_names_them(tmp_path: Path) -> None:
    grammar = "handlers: {}"
    write(tmp_path / "suites/ask.yaml", grammar)
    write(tmp_path / "suites/mine.yaml", "{grammar: ask.yaml, rows: 3}")
    write(tmp_path / "rows.jsonl", ROW)
    (tmp_path / "base").mkdir()
    text = "{base: base, data: {sources: [{path: rows.jsonl}]}, evaluate: {suites: [suites/mine.yaml]}}"
    recipe = load_recipe(write(tmp_path / "recipe.yaml", text))
    assert recipe.evaluate.suites[0].grammars == (tmp_path / "suites/ask.yaml",)
    assert recipe.base == str(tmp_path / "base")


def test_a_recipe_extends_another_and_settings_come_on_top(tmp_path: Path) -> None:
    write(tmp_path / "shared/rows.jsonl", ROW)
    write(
        tmp_path / "shared/all.yaml", "{name: all, data: {sources: [{path: rows.jsonl}]}, train: {rank: 4, alpha: 8}}"
    )
    mine = write(tmp_path / "mine.yaml", "extends: shared/all.yaml\ntrain: {rank: 64}")
    recipe = load_recipe(mine, ["train.learning_rate=1e-4", "data.sources[0].weight=2", "train.max_steps=7"])
    assert (recipe.name, recipe.train.rank, recipe.train.alpha, recipe.train.max_steps) == ("mine", 64, 8, 7)
    assert recipe.train.learning_rate == 1e-4
    assert recipe.data.sources[0].weight == 2 and recipe.data.sources[0].path == tmp_path / "shared/rows.jsonl"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["train.rank"], "KEY=VALUE"),
        (["train.rank=eight"], "--set train.rank=eight: train.rank: 'eight'"),
        (["train.num_epochs=2"], "here it is 'train.epochs'"),
        (["data.sources[3].weight=2"], "there is no [3]"),
        (["train.rank.x=2"], "train.rank"),
        (["train.rank={"], "not YAML"),
    ],
)
def test_a_wrong_setting_is_named_as_it_was_typed(tmp_path: Path, settings: list[str], says: str) -> None:
    write(tmp_path / "rows.jsonl", ROW)
    recipe = write(tmp_path / "recipe.yaml", "{data: {sources: [{path: rows.jsonl}]}, train: {rank: 4}}")
    with pytest.raises(TunelineError, match="--set") as error:
        load_recipe(recipe, settings)
    assert says in str(error.value)


@pytest.mark.parametrize("extended", ["me.yaml", "nobody.yaml", "[a]"])
def test_what_cannot_be_extended_is_named(tmp_path: Path, extended: str) -> None:
    recipe = write(tmp_path / "me.yaml", f"extends: {extended}")
    with pytest.raises(TunelineError, match="extends"):
        load_recipe(recipe)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("train: {lora_r: 8}", "train.lora_r: unknown key; here it is 'train.rank'"),
        ("num_train_epochs: 3", "'train.epochs'"),
        ("train: {Sequence_Len: 3}", "'data.max_tokens'"),
        ("hyperparameters: {n_epochs: 3}", "'train'"),
        ("learning_rate: 3", "it belongs in 'train.learning_rate'"),
        ("train: {logging_steps: 3}", "every step is logged"),
        ("train: {rnak: 3}", "did you mean 'rank'?"),
    ],
)
def test_keys_of_other_trainers_are_answered_with_ours(tmp_path: Path, line: str, says: str) -> None:
    recipe = write(tmp_path / "recipe.yaml", f"data: {{sources: [{{path: .}}]}}\n{line}")
    with pytest.raises(TunelineError) as error:
        load_recipe(recipe)
    assert says in str(error.value)


def test_every_key_we_answer_with_exists() -> None:
    assert set(OTHER_TRAINERS.values()) <= set(list_settings())
