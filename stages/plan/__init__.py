"""The plan: what a recipe will need, take and cost, from configs alone. No torch, no weights, under a second."""

from dataclasses import dataclass
from pathlib import Path

from tuneline.configs.models import Shape, registry, resolve_key
from tuneline.configs.recipe import Recipe
from tuneline.core import paths
from tuneline.core.errors import BadRecipe
from tuneline.stages.plan.dataset_size import rows_of
from tuneline.stages.plan.serving import Serving, refuse_unservable, serving
from tuneline.stages.plan.stage_bounds import Bound, bounds, refuse_too_dear, states
from tuneline.stages.plan.training import Training, training


@dataclass(frozen=True)
class Plan:
    """What `tuneline plan` tells."""

    recipe: str
    run: str
    base: str
    training: Training
    serving: Serving
    line: tuple[Bound, ...]


def plan_of(
    recipe: Recipe,
    run: Path | None = None,
    *,
    context: int | None = None,
    streams: int = 1,
    api_usd: float | None = None,
) -> Plan:
    """The plan of a recipe, in the run of its name unless told otherwise.

    Raises:
        NotFound: no such base. BadRecipe: its config does not say its shape.
    """
    run = run or paths.run_folder(recipe.name)
    shape = shape_of_base(recipe)
    found = states(recipe, run)
    return Plan(
        recipe=recipe.name,
        run=run.name,
        base=recipe.base,
        training=training(recipe, shape, rows_of(recipe, run)),
        serving=serving(recipe, shape, context, streams, api_usd),
        line=tuple(bounds(recipe, tuple(found), found)),
    )


def refuse(recipe: Recipe, plan: Plan) -> None:
    """Raise BadRecipe for what should not be started: a form the engine cannot load, a cost above the recipe's."""
    refuse_unservable(recipe)
    refuse_too_dear(recipe, plan.line)


def shape_of_base(recipe: Recipe) -> Shape:
    """Of a base in the registry, or by the config.json of one that is here."""
    if key := registry().find(recipe.base):
        return registry().shape(key)
    from tuneline.stages.fetch.bases import read_base_config

    config = read_base_config(recipe)
    if config is None:
        resolve_key(recipe.base) if "/" not in recipe.base else None
        raise BadRecipe(
            f"base: {recipe.base!r}: not in configs/models.yaml and not here, so its size is unknown;\n"
            "`tuneline fetch RECIPE` brings it, then its config.json says"
        )
    from tuneline.configs.models import read_shape

    if (shape := read_shape(config)) is None:
        raise BadRecipe(f"base: {recipe.base!r}: its config.json does not give the sizes of a decoder")
    return shape
