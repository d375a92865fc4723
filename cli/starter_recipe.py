"""The recipe of a command that names a base and its data, but no recipe."""

import re
from pathlib import Path

from tuneline.cli.consoles import errors_console
from tuneline.core.errors import BadData, BadRequest


def write_recipe(base: str, data: Path) -> Path:
    """Write the recipe that trains a base on data into the current folder, unless it is there; say where; return it.

    Raises:
        BadRequest: another recipe has its name. BadData: the data has errors, or there is nothing to train on.
        NotFound: there is no such data, or no such base. BadRecipe: the base's commit is not known.
    """
    from tuneline.configs.recipe_file import load_recipe
    from tuneline.stages.fetch.bases import locate_base
    from tuneline.stages.prepare import recipe_starter, validation

    file = Path(f"{re.sub(r'[^A-Za-z0-9._-]+', '-', data.stem).strip('-.') or 'data'}-recipe.yaml")
    draft = file.with_name(f".{file.name}")
    draft.unlink(missing_ok=True)
    try:
        notes = recipe_starter.write_starter_recipe(data, draft, base)
        text = draft.read_text("utf-8")
        if file.exists() and file.read_text("utf-8") != text:
            raise BadRequest(
                f"{file}: is there already and says something else: train it by `tuneline train {file}`, or rename it"
            )
        locate_base(load_recipe(draft))
        verdict = validation.examine_recipe(draft)
        if not verdict.passed:
            raise BadData(f"{data}: {verdict.summary}\nnext: tuneline validate {data}")
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    errors_console.print(notes.replace(str(draft), str(file)), soft_wrap=True)
    errors_console.print(f"the recipe is {file}: change it there; `tuneline train {file}` trains it", soft_wrap=True)
    return file
