"""Placement of a training on the GPUs at hand: the model whole or sharded, and the rows computed at a time."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from tuneline.configs.hardware import hardware
from tuneline.configs.models import Shape, read_shape
from tuneline.configs.recipe import Recipe
from tuneline.core.environment import read_variable
from tuneline.core.errors import BadRecipe
from tuneline.stages.plan.dataset_size import estimate_dataset
from tuneline.stages.plan.gpu_fit import estimate_minimum_loading, estimate_minimum_memory, fit_in_memory, fit_on_cpu

STRATEGY = "TUNELINE_STRATEGY"
"""Environment variable in which the launcher tells a worker the strategy: `ddp` or `fsdp2`."""


def is_sharded() -> bool:
    """Return whether this process is a worker that holds a shard of the model (FSDP2)."""
    return read_variable(STRATEGY) == "fsdp2"


@dataclass(frozen=True)
class Placement:
    """How the processes of a training share the model and the rows."""

    strategy: str
    """`ddp`: each process holds the whole model; `fsdp2`: each holds a shard."""
    rows: int
    """Rows computed at a time in one process."""
    reason: str
    """The planned memory, for messages."""

    def apply(self, recipe: Recipe) -> Recipe:
        """Return the recipe with this strategy and these rows."""
        compute = recipe.compute.model_copy(update={"micro_batch_rows": self.rows, "strategy": self.strategy})
        return recipe.model_copy(update={"compute": compute})


def place(recipe: Recipe, base: Path, run: Path, processes: int, gpu_bytes: int | None) -> Placement:
    """Return the placement on `processes` GPUs of `gpu_bytes` each, or on the CPU if `gpu_bytes` is None.

    Where the plan says that nothing fits, the smallest placement is returned all the same: the plan may be wrong.

    Raises:
        BadRecipe: the rows of a step cannot be shared out evenly; the base's config.json lacks the sizes; or not even
            the base can be loaded.
    """
    rows, compute = rows_per_process(recipe, processes), recipe.compute
    shape, loss_share = _read_shape(base), estimate_dataset(recipe, run).learned
    if gpu_bytes is None:
        strategy = "ddp" if compute.strategy == "auto" else compute.strategy
        placement = Placement(strategy, compute.micro_batch_rows or rows, "")
        planned = fit_on_cpu(placement.apply(recipe), shape, loss_share).memory.total
        return replace(placement, reason=f"planned {planned / 1e9:.1f} GB on the CPU")
    available = f"of {gpu_bytes / 1e9:.0f} GB a GPU"
    fit = fit_in_memory(recipe, shape, gpu_bytes * hardware().usable, processes, loss_share)
    if fit is None:
        _refuse_unloadable(recipe, shape, processes, gpu_bytes)
        strategy = ("fsdp2" if processes > 1 else "ddp") if compute.strategy == "auto" else compute.strategy
        planned = estimate_minimum_memory(recipe, shape, processes, loss_share).total
        reason = f"planned {planned / 1e9:.1f} {available}, which is too much"
        return Placement(strategy, compute.micro_batch_rows or 1, reason)
    reason = f"planned {fit.memory.total / 1e9:.1f} {available}"
    return Placement("fsdp2" if fit.work.sharded else "ddp", fit.work.rows, reason)


def _refuse_unloadable(recipe: Recipe, shape: Shape, processes: int, gpu_bytes: int) -> None:
    """Raise BadRecipe if the base alone does not fit; unlike a training's, the size of weights is no estimate."""
    needed = estimate_minimum_loading(recipe, shape, processes)
    if needed > gpu_bytes:
        gpus = "one GPU" if processes == 1 else f"each of {processes} GPUs"
        raise BadRecipe(
            f"compute.train.gpu: loading the base takes {needed / 1e9:.1f} GB on {gpus} with method "
            f"{recipe.train.method} and strategy {recipe.compute.strategy}, and a GPU here has {gpu_bytes / 1e9:.1f}; "
            "use more GPUs with strategy auto, larger GPUs, or method qlora; `tuneline plan` lists hardware that fits"
        )


def rows_per_process(recipe: Recipe, processes: int) -> int:
    """Return the number of rows of a step that one process computes.

    Raises:
        BadRecipe: they cannot be shared out evenly.
    """
    rows, micro_batch_rows = recipe.train.batch_rows, recipe.compute.micro_batch_rows
    if rows % processes:
        raise BadRecipe(f"train.batch_rows: {rows} cannot be divided among {processes} processes; use a multiple")
    per_process = rows // processes
    if micro_batch_rows and per_process % micro_batch_rows:
        raise BadRecipe(
            f"compute.micro_batch_rows: {micro_batch_rows} does not divide the {per_process} rows of a step and process"
        )
    return per_process


def halve_rows(recipe: Recipe, processes: int, rows: int) -> int:
    """Return the largest number of rows that is at most half of `rows` and divides a process's rows of a step."""
    per_process = recipe.train.batch_rows // processes
    return next(half for half in range(rows // 2, 0, -1) if per_process % half == 0)


def _read_shape(base: Path) -> Shape:
    config = base / "config.json"
    shape = read_shape(json.loads(config.read_text())) if config.exists() else None
    if shape is None:
        raise BadRecipe(f"{config}: does not give the sizes of a decoder")
    return shape
