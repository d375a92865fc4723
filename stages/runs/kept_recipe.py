"""The recipe that is kept in a run, as a recipe to run again."""

from collections.abc import Sequence
from pathlib import Path

from tuneline.configs.recipe import RECIPE, Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.errors import BadRecipe
from tuneline.core.redaction import MASK


def load_kept_recipe(run: Path, settings: Sequence[str] = ()) -> Recipe:
    """Return the recipe of the run in the folder `run`, with `settings` (`KEY=VALUE`) on top, its files checked.

    Raises:
        BadRecipe: it is damaged, a file that it names is not here, or it had credentials, which are not kept.
    """
    file = run / RECIPE
    remedy = f"`tuneline run FILE --run {run.name}` continues it, where FILE is your own recipe"
    if MASK in file.read_text(encoding="utf-8", errors="replace"):
        raise BadRecipe(f"{file}: an address in it had credentials, which are not kept; {remedy}")
    try:
        return load_recipe(file, settings)
    except BadRecipe as error:
        raise BadRecipe(f"{error}\n{remedy}") from None
