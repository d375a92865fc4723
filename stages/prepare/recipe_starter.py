"""`tuneline init PATH`: writes a recipe that runs for the data at a path."""

import json
from pathlib import Path
from typing import Any

import yaml

from tuneline.configs.catalogue import load_catalogue
from tuneline.configs.data import Data
from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_file import load_recipe, resolve_base
from tuneline.core.errors import BadRequest, NotFound
from tuneline.core.files import write_atomic
from tuneline.stages.fetch.bases import find_unpinned_base, locate_base
from tuneline.stages.prepare.data_survey import DataSurvey, survey_data

CHARACTERS_A_TOKEN = 3.0
"""Low for Llama on purpose, so that the token limit that follows leaves out no row."""
BYTES_A_TOKEN_TINY = 1.5
TINY_CONTEXT = 2048
"""The context of the tiny base, in tokens."""
MAX_TOOLS_SHOWN = 1 + Data.model_fields["distractors"].default[1]
"""Most tools of a row that calls one, unless it shows the whole catalogue."""
STYLE_SUITE = "configs/suites/style.yaml"
STYLE_WORDS = 9_000
"""Of each style, for the suite of styles: 50 passages of `passage_words`, of which a tenth is held out."""


def write_starter_recipe(path: Path, recipe_file: Path, base: str = "tiny", revision: str | None = None) -> str:
    """Write a recipe for the data at `path`; return what was found, as text. Paths below its folder are relative to it.

    Raises:
        NotFound: The path or the base does not exist.
        BadRequest: The recipe file exists already.
        BadData: Nothing at the path can be trained on.
    """
    if not path.exists():
        raise NotFound(f"{path}: no such file or folder")
    if recipe_file.exists():
        raise BadRequest(f"{recipe_file}: already exists; give another name with --to")
    survey = survey_data(path)
    catalogue_settings = _survey_catalogue(survey)
    recipe = _compose_recipe(survey, base, revision)
    recipe["data"] |= catalogue_settings
    _refuse_unknown_base(recipe)
    recipe = _make_relative(recipe, recipe_file.absolute().parent)
    header = "".join(f"# {' '.join(note.split())}\n" for note in survey.notes)  # a file's name may have a line break
    recipe_file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(recipe_file, header + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    load_recipe(recipe_file)
    return "\n".join([*survey.notes, f"written: {recipe_file}"])


def _refuse_unknown_base(settings: dict[str, Any]) -> None:
    """Raise NotFound if there is no such base, BadRecipe if its folder is none; one to be downloaded passes."""
    recipe = resolve_base(Recipe.model_validate({"name": "starter"} | settings))
    if find_unpinned_base(recipe) is None:
        locate_base(recipe)


def _survey_catalogue(survey: DataSurvey) -> dict[str, Any]:
    """Add the tools a row shows to the longest row; return data settings for a catalogue too large to show whole."""
    if not survey.tools:
        return {}
    catalogue = load_catalogue(survey.tools)
    survey.longest += sum(sorted(len(json.dumps(tool)) for tool in catalogue.openai())[-MAX_TOOLS_SHOWN:])
    if len(catalogue.names) <= MAX_TOOLS_SHOWN:
        return {}
    survey.notes.append(
        f"each row shows the tools it calls and 3 to {MAX_TOOLS_SHOWN - 1} others, never all; see data.show"
    )
    return {"whole_catalogue": 0}


def _propose_suites(survey: DataSurvey) -> list[Any]:
    """Return suites for the recipe: test files as logged chats, and the suite of styles if there is text for it."""
    suites: list[Any] = [{"path": str(file)} for file in survey.test]
    if len(survey.styles) > 1:
        few = [style for style, words in survey.styles.items() if words < STYLE_WORDS]
        if few:
            lacking = ", ".join(f"{style!r} ({survey.styles[style]:,} words)" for style in few)
            survey.notes.append(
                f"not enough text to hold some out, in {len(few)} of {len(survey.styles)} styles: {lacking}; with "
                f"{STYLE_WORDS:,} words in each style, {STYLE_SUITE} can evaluate them"
            )
        else:
            suites.append(STYLE_SUITE)
            survey.notes.append(f"{STYLE_SUITE}: asks for each style, and for one after another")
    return suites


def _make_relative(value: Any, folder: Path) -> Any:
    """Return settings with each absolute path below a folder as a path that starts there."""
    if isinstance(value, dict):
        return {key: _make_relative(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_make_relative(item, folder) for item in value]
    if isinstance(value, str) and value.startswith("/") and Path(value).is_relative_to(folder):
        return str(Path(value).relative_to(folder))
    return value


def _compose_recipe(survey: DataSurvey, base: str, revision: str | None) -> dict[str, Any]:
    characters_a_token = BYTES_A_TOKEN_TINY if base == "tiny" else CHARACTERS_A_TOKEN
    tokens = max(512, int(survey.longest / characters_a_token * 1.5))
    limit = min(TINY_CONTEXT, tokens) if base == "tiny" else tokens
    max_tokens = next(power for power in (1 << n for n in range(9, 24)) if power >= limit)
    data: dict[str, Any] = {"sources": survey.sources, "max_tokens": max_tokens}
    if survey.tools:
        data = {"tools": str(survey.tools)} | data
    if not survey.splits_are_read:
        data |= {"validation": str(survey.validation[0])} if survey.validation else {}
        data |= {"held_out": [str(file) for file in survey.test]} if survey.test else {}
    recipe: dict[str, Any] = {"base": base} | ({"revision": revision} if revision else {}) | {"data": data}
    if suites := _propose_suites(survey):
        recipe["evaluate"] = {"suites": suites}
    return recipe
