"""Shape of a recipe's base, from the registry or from its config.json."""

from tuneline.configs.models import Shape, read_shape, registry, resolve_key
from tuneline.configs.recipe import Recipe
from tuneline.core.errors import BadRecipe


def read_base_shape(recipe: Recipe) -> Shape:
    """Return the shape of a base that is in the registry or was fetched.

    Raises:
        NotFound: no such base.
        BadRecipe: the base is neither in the registry nor fetched, or its config.json lacks the sizes.
    """
    if key := registry().find(recipe.base):
        return registry().shape(key)
    from tuneline.stages.fetch.bases import read_base_config

    config = read_base_config(recipe)
    if config is None:
        if "/" not in recipe.base:
            resolve_key(recipe.base)
        revision = f" --revision {recipe.revision}" if recipe.revision else ""
        raise BadRecipe(
            f"base: {recipe.base!r}: not in configs/models.yaml and not fetched, so its size is unknown;\n"
            f"run `tuneline models download {recipe.base}{revision}` first, which has its config.json"
        )
    if (shape := read_shape(config)) is None:
        raise BadRecipe(f"base: {recipe.base!r}: its config.json does not give the sizes of a decoder")
    return shape
