"""How a training is laid out on what is there, as the plan sees it: the model whole or in shards, rows at a time."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from tuneline.configs.hardware import hardware
from tuneline.configs.models import Shape, read_shape
from tuneline.configs.recipe import Recipe
from tuneline.core.errors import BadRecipe
from tuneline.stages.plan.dataset_size import rows_of
from tuneline.stages.plan.training import least, on_cpu, placed_in


@dataclass(frozen=True)
class Placement:
    """Of all processes of a training."""

    strategy: str
    """ddp: each holds the model whole; fsdp2: each holds a shard."""
    rows: int
    """At a time in one process."""
    why: str

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe, told so."""
        compute = recipe.compute.model_copy(update={"micro_batch_rows": self.rows, "strategy": self.strategy})
        return recipe.model_copy(update={"compute": compute})


def placement(recipe: Recipe, base: Path, run: Path, processes: int, memory: int | None) -> Placement:
    """For `processes` GPUs of so many bytes each, or on the CPU (None).

    Where the plan finds no room it is tried all the same, with as little as can be: the plan may be wrong.

    Raises:
        BadRecipe: the rows of a step cannot be shared out evenly; the base does not say its shape.
    """
    rows, asked = rows_each(recipe, processes), recipe.compute
    shape, learned = _shape(base), rows_of(recipe, run).learned
    if memory is None:
        strategy = "ddp" if asked.strategy == "auto" else asked.strategy
        place = Placement(strategy, asked.micro_batch_rows or rows, "")
        planned = on_cpu(place.of(recipe), shape, learned)[1].total
        return replace(place, why=f"planned {planned / 1e9:.1f} GB on the CPU")
    has = f"of {memory / 1e9:.0f} GB a GPU"
    placing = placed_in(recipe, shape, memory * hardware().usable, processes, learned)
    if placing is None:
        strategy = ("fsdp2" if processes > 1 else "ddp") if asked.strategy == "auto" else asked.strategy
        needed = least(recipe, shape, processes, learned).total
        return Placement(strategy, asked.micro_batch_rows or 1, f"planned {needed / 1e9:.1f} {has}, which is too much")
    work, parts = placing
    return Placement("fsdp2" if work.sharded else "ddp", work.rows, f"planned {parts.total / 1e9:.1f} {has}")


def rows_each(recipe: Recipe, processes: int) -> int:
    """Rows of a step that one process computes.

    Raises:
        BadRecipe: they cannot be shared out evenly.
    """
    rows, wanted = recipe.train.batch_rows, recipe.compute.micro_batch_rows
    if rows % processes:
        raise BadRecipe(f"train.batch_rows: {rows} cannot be shared by {processes} processes; take a multiple")
    if wanted and rows // processes % wanted:
        raise BadRecipe(
            f"compute.micro_batch_rows: {wanted} does not divide the {rows // processes} rows of a step and process"
        )
    return rows // processes


def fewer(recipe: Recipe, processes: int, rows: int) -> int:
    """At most half as many rows at a time, such that they still make a step."""
    each = recipe.train.batch_rows // processes
    return next(half for half in range(rows // 2, 0, -1) if each % half == 0)


def _shape(base: Path) -> Shape:
    config = base / "config.json"
    shape = read_shape(json.loads(config.read_text())) if config.exists() else None
    if shape is None:
        raise BadRecipe(f"{config}: does not give the sizes of a decoder")
    return shape
