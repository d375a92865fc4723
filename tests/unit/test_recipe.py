"""The recipe: what is read, what is refused and how, and what enters a fingerprint."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tuneline.configs.file_hashes import hash_content
from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.core import paths
from tuneline.core.errors import BadRecipe, BadRequest
from tuneline.core.paths import ROOT

ROWS = {"data": {"sources": [{"grammar": "data/requests/train.yaml", "rows": 10}]}}


def write(folder: Path, content: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_we_ship_loads(path: Path) -> None:
    assert load_recipe(path).name == path.stem


def test_a_recipe_states_only_what_differs_and_is_called_after_its_file(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, ROWS))
    assert (recipe.name, recipe.base, recipe.train.rank) == ("mine", "tiny", 16)
    with pytest.raises(ValueError, match="frozen"):
        recipe.base = "other"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train": {"learning_rte": 1}}, "train.learning_rte: unknown key; did you mean 'learning_rate'"),
        ({"trian": {}}, "did you mean 'train'"),
        ({"train": {"zzzzzz": 1}}, "known here: method, rank"),
        ({"train": {"rank": -3}}, "train.rank: -3"),
        ({"train": {"learning_rate": "fast"}}, "train.learning_rate: 'fast'"),
        ({"data": {"sources": []}}, "data.sources"),
        (
            {"data": {"sources": [{"path": "a", "grammar": "b", "rows": 1}]}},
            "either path or grammar",
        ),
        ({"data": {"sources": [{"grammar": "data/requests/train.yaml"}]}}, "rows and grammar must be given together"),
        ({"data": {"sources": [{"path": "no/such.jsonl"}]}}, "no/such.jsonl: no such file"),
        ({"serve": {"type": "Q8_0"}, "convert": {"types": ["F16"]}}, "serve.type is Q8_0"),
        ({"name": "../up"}, "name"),
        ({"data": {**ROWS["data"], "require": {"format_error": 0}}}, "require.format_error: unknown key; did you mean"),
    ],
)
def test_a_wrong_recipe_is_refused_with_file_key_and_value(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = write(tmp_path, ROWS | change)
    with pytest.raises(BadRecipe) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value) and says in str(caught.value) and caught.value.exit_code == 2


def test_a_list_whose_items_are_wrong_is_not_called_too_short(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe) as caught:
        load_recipe(write(tmp_path, {"data": {"sources": [{"path": "a", "columns": {"question": "q"}}]}}))
    assert "'question' is not a field" in str(caught.value) and "at least 1" not in str(caught.value)


@pytest.mark.parametrize("content", ["a: [", "- 1\n", "", "\x00"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(BadRecipe, match="mine.yaml"):
        load_recipe(write(tmp_path, content))


def test_a_missing_recipe_names_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match="configs/recipes"):
        load_recipe(tmp_path / "none.yaml")


def test_settings_follow_a_files_content_not_its_place(tmp_path: Path) -> None:
    def settings(text: str, name: str) -> dict[str, Any]:
        file = tmp_path / name
        file.write_text(text)
        return Recipe.model_validate({"data": {"sources": [{"path": str(file)}]}}).section("data")

    assert settings("one", "a.jsonl") == settings("one", "b.jsonl") != settings("two", "a.jsonl")


@pytest.mark.parametrize(
    "line",
    [
        "inherit: parent.yaml",
        'inherit: "parent.yaml"',
        "inherit: 'parent.yaml'  # a comment",
        '"inherit" : parent.yaml',
    ],
)
def test_a_change_of_an_inherited_grammar_is_a_change(tmp_path: Path, line: str) -> None:
    (tmp_path / "child.yaml").write_text(f"{line}\n")
    recipe = Recipe.model_validate({"data": {"sources": [{"grammar": str(tmp_path / "child.yaml"), "rows": 1}]}})
    (tmp_path / "parent.yaml").write_text("a: 1")
    before = recipe.section("data")
    (tmp_path / "parent.yaml").write_text("a: 2")
    assert recipe.section("data") != before


def test_an_inherited_grammar_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "child.yaml").write_text("inherit: none.yaml\n")
    with pytest.raises(BadRecipe, match=r"child\.yaml: inherit: none\.yaml: no such file beside it"):
        hash_content(tmp_path / "child.yaml")


def test_the_json_schema_explains_its_fields() -> None:
    schema = Recipe.model_json_schema()
    assert schema["$defs"]["Train"]["properties"]["batch_rows"]["description"].startswith("Rows per optimizer step")
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 65, "a\n"])
def test_a_runs_name_leads_nowhere_else(name: str) -> None:
    with pytest.raises(BadRequest, match="64 at most"):
        paths.run_folder(name)


@pytest.mark.parametrize("template", ["", "chatml", "mine.jinja"])
def test_a_recipe_stays_the_same_from_process_to_process(tmp_path: Path, template: str) -> None:
    """On Modal it is passed on as JSON twice before a stage sees it."""
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    file = tmp_path / "recipe.yaml"
    file.write_text(f"{{template: '{template}', data: {{sources: [{{path: mine.jinja}}]}}}}")
    recipe = load_recipe(file)
    twice = Recipe.model_validate_json(Recipe.model_validate_json(recipe.to_json()).to_json())
    assert twice == recipe and type(twice.template) is type(recipe.template)
