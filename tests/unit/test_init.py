"""`tuneline init`: files that are not for training, suites it proposes, and what it says next."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tuneline.cli import app
from tuneline.cli.commands import pipeline
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.errors import BadRecipe, NotFound
from tuneline.core.events import read_events
from tuneline.stages.fetch import fetch
from tuneline.stages.prepare import prepare


def write_chats(file: Path, start: int, count: int, answer: str = "It is number {}.") -> None:
    rows = [
        [{"role": "user", "content": f"Which number is {i}?"}, {"role": "assistant", "content": answer.format(i)}]
        for i in range(start, start + count)
    ]
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")


def init(folder: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["init", str(folder / "my data"), "--to", str(folder / "recipe.yaml"), *options])


def test_files_named_for_validation_and_test_are_never_trained_on(tmp_path: Path) -> None:
    data = tmp_path / "my data"
    data.mkdir()
    write_chats(data / "chats.jsonl", 0, 60)
    write_chats(data / "valid-1.jsonl", 100, 5)
    write_chats(data / "held_out.jsonl", 200, 7)
    done = init(tmp_path)
    assert done.exit_code == 0, done.output
    assert "valid-1.jsonl: a validation file, judging by its name: not trained on" in done.output
    assert "held_out.jsonl: a test file, judging by its name: not trained on; a suite of the evaluation" in done.output
    assert f"next: tuneline plan {tmp_path}/recipe.yaml" in done.output
    text = (tmp_path / "recipe.yaml").read_text()
    assert "path: my data\n" in text  # beside the recipe, so that both can be moved
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert [suite.name for suite in recipe.evaluate.suites] == ["held_out"]
    fetch(recipe, tmp_path / "run")
    metrics = prepare(recipe, tmp_path / "run").metrics
    assert (metrics["rows_train"], metrics["rows_validation"]) == (60, 5)


def test_data_with_errors_is_not_to_be_run_next(tmp_path: Path) -> None:
    (tmp_path / "my data").mkdir()
    write_chats(tmp_path / "my data/chats.jsonl", 0, 300)
    with (tmp_path / "my data/chats.jsonl").open("a") as file:  # beyond the sample
        file.write(json.dumps({"messages": [{"role": "user", "content": "nobody answers"}]}) + "\n")
    done = init(tmp_path)
    assert done.exit_code == 2 and "tuneline run" not in done.output
    assert "300 of 301 rows kept" in done.output and "the last message must be the assistant's" in done.output
    assert "next: fix the errors, then run tuneline validate" in done.output


@pytest.mark.parametrize(("documents", "proposed"), [(2, False), (60, True)])
def test_the_suite_of_styles_is_proposed_where_there_is_text_for_it(
    tmp_path: Path, documents: int, proposed: bool
) -> None:
    for style in ("plain", "epic"):
        (tmp_path / "my data" / style).mkdir(parents=True)
        for number in range(documents):
            words = " ".join(f"{style} word{number * 200 + i}" for i in range(100))
            (tmp_path / "my data" / style / f"{number}.txt").write_text(f"{words}.\n\n{words} again.")
    done = init(tmp_path)
    suites = [suite.name for suite in load_recipe(tmp_path / "recipe.yaml").evaluate.suites]
    assert suites == (["style"] if proposed else []), done.output
    lacking = "not enough text to hold some out, in 2 of 2 styles: 'epic' (" in done.output
    assert lacking != proposed and (proposed or "'plain' (" in done.output)


def test_a_large_loss_of_rows_is_the_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    (tmp_path / "my data").mkdir()
    write_chats(tmp_path / "my data/chats.jsonl", 0, 60)
    init(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("max_tokens: 512", "max_tokens: 40"))
    loaded = load_recipe(recipe)
    fetch(loaded, tmp_path / "run")
    write_chats(tmp_path / "my data/chats.jsonl", 0, 12)
    with (tmp_path / "my data/chats.jsonl").open("a") as file:
        for number in range(48):
            turns = [{"role": "user", "content": f"{number} " * 99}, {"role": "assistant", "content": f"No {number}."}]
            file.write(json.dumps({"messages": turns}) + "\n")
    told = "48 of 60 rows (80%) are left out: 48 × too long; split it, or raise data.max_tokens"
    shown = CliRunner().invoke(app, ["validate", str(recipe), "--to", str(tmp_path / "out")]).output
    assert shown.splitlines()[0] == f"WARNING: {told}"
    prepare(load_recipe(recipe), tmp_path / "run")
    warnings = [event["text"] for event in read_events(tmp_path / "run") if event["kind"] == "warning"]
    assert warnings[0] == told
    recipe.unlink()
    longer = json.dumps(
        {"messages": [{"role": "user", "content": "word " * 9000}, {"role": "assistant", "content": "."}]}
    )
    (tmp_path / "my data/chats.jsonl").open("a").write((longer + "\n") * 40)
    assert init(tmp_path).output.startswith("WARNING: ")


def test_training_without_a_recipe_writes_the_one_that_it_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[str, str]] = []

    def run_stages(recipe: Any, name: str, until: str, **options: Any) -> tuple[Path, None]:
        trained.append((name, until))
        return tmp_path, None

    monkeypatch.setattr(pipeline, "run_stages", run_stages)
    monkeypatch.chdir(tmp_path)
    write_chats(tmp_path / "my chats.jsonl", 0, 60)
    words = ["train", "tiny", "--data", "my chats.jsonl"]
    for _ in range(2):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert "the recipe is my-chats-recipe.yaml" in done.output
    assert trained == [("my-chats-recipe", "train")] * 2
    recipe = load_recipe(tmp_path / "my-chats-recipe.yaml")
    assert recipe.base == "tiny" and recipe.data.sources[0].path == tmp_path / "my chats.jsonl"
    with (tmp_path / "my-chats-recipe.yaml").open("a") as file:
        file.write("# mine\n")
    assert "rename it" in str(CliRunner().invoke(app, words).exception)
    (tmp_path / "broken.jsonl").write_text('{"messages": [{"role": "user", "content": "hello"}]}\n')
    assert CliRunner().invoke(app, ["train", "tiny", "--data", "broken.jsonl"]).exit_code != 0
    assert not list(tmp_path.glob("*broken*.yaml")) and len(trained) == 2


def test_a_base_that_was_never_downloaded_does_not_hide_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    (tmp_path / "my data").mkdir()
    write_chats(tmp_path / "my data/chats.jsonl", 0, 60)
    done = init(tmp_path, "--base", "smollm2-135m-instruct")
    download = "tuneline models download HuggingFaceTB/SmolLM2-135M-Instruct"
    assert done.exit_code == 0, done.output
    assert f"{download}; tuneline run" in done.output
    done = CliRunner().invoke(app, ["validate", "recipe.yaml"])
    assert done.exit_code == 0 and "60 of 60 rows kept" in done.output
    assert "60 rows (100.0%)\n" in done.output  # not "0 tokens", which nobody counted
    assert (
        f"tokens are not counted: base 'HuggingFaceTB/SmolLM2-135M-Instruct' is not on this machine; `{download}`"
        in (done.output)
    )
    error = CliRunner().invoke(app, ["train", "smollm2-135m-instruct", "--data", "my data"]).exception
    assert isinstance(error, BadRecipe) and download in str(error) and "no folder" not in str(error)
    assert not list(tmp_path.glob("*my-data*"))


def test_recipes_that_we_ship_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe(Path("configs/recipes/micro.yaml")).name == "micro"
    with pytest.raises(BadRecipe, match=r"^none.yaml: no such recipe; `ls configs/recipes`"):
        load_recipe(Path("none.yaml"))
    (tmp_path / "mine.yaml").write_text("extends: cheap.yaml\n")
    with pytest.raises(BadRecipe, match=r"cheap.yaml: no such recipe; did you mean configs/recipes/cheap.yaml\?"):
        load_recipe(Path("mine.yaml"))


def test_an_unknown_base_is_refused_before_a_recipe_is_written(tmp_path: Path) -> None:
    (tmp_path / "my data").mkdir()
    write_chats(tmp_path / "my data/chats.jsonl", 0, 60)
    done = init(tmp_path, "--base", "llamma-3")
    assert isinstance(done.exception, NotFound) and "llamma-3" in str(done.exception)
    assert not (tmp_path / "recipe.yaml").exists()
