"""Whether a training fits on given GPUs, with how many rows at a time, and whether the model must be sharded."""

import dataclasses
from dataclasses import dataclass

from tuneline.configs.hardware import hardware
from tuneline.configs.models import Shape
from tuneline.configs.recipe import Recipe
from tuneline.stages.plan.loading import estimate_loading
from tuneline.stages.plan.memory import MemoryParts, Workload, estimate_peak_memory

ROWS = (8, 4, 2, 1)
"""Rows at a time on one GPU: the most that fits, unless the recipe says otherwise."""


@dataclass(frozen=True)
class Fit:
    """A workload and its memory on each GPU."""

    work: Workload
    memory: MemoryParts


def to_workload(recipe: Recipe, loss_share: float = 1.0) -> Workload:
    """Return the recipe's workload, one row at a time on one GPU; `loss_share` is the share of tokens in the loss."""
    train = recipe.train.model_dump()
    return Workload(
        method=train["method"],
        rank=train["rank"],
        targets=frozenset(train["targets"]),
        modules_to_save=frozenset(train.get("modules_to_save", ())),
        tokens=recipe.data.max_tokens,
        loss_share=1.0 if train["packing"] else loss_share,
    )


def fit_on_gpus(recipe: Recipe, shape: Shape, kind: str, count: int, loss_share: float = 1.0) -> Fit | None:
    """Return the training on `count` GPUs of `kind` with as many rows at a time as fit; None if not even one fits.

    DDP where the model fits one GPU, FSDP2 where it does not, unless the recipe's compute.strategy decides.
    """
    if not hardware().chips[kind].bf16:
        return None
    return fit_in_memory(recipe, shape, hardware().usable_bytes(kind), count, loss_share)


def fit_in_memory(recipe: Recipe, shape: Shape, gpu_bytes: float, count: int, loss_share: float = 1.0) -> Fit | None:
    """Return the same as `fit_on_gpus`, for GPUs with `gpu_bytes` usable bytes each."""
    sharding = {"auto": (False, True), "ddp": (False,), "fsdp2": (True,)}[recipe.compute.strategy]
    for sharded in sharding if count > 1 else (False,):
        for rows in _list_row_counts(recipe, count):
            work = dataclasses.replace(to_workload(recipe, loss_share), rows=rows, gpus=count, sharded=sharded)
            memory = estimate_peak_memory(shape, work)
            if max(memory.total, estimate_loading(shape, work)) <= gpu_bytes:
                return Fit(work, memory)
    return None


def estimate_minimum_memory(recipe: Recipe, shape: Shape, count: int, loss_share: float = 1.0) -> MemoryParts:
    """Return the memory of one of `count` GPUs with as few rows at a time and as much sharding as allowed."""
    return estimate_peak_memory(shape, _to_smallest_workload(recipe, count, loss_share))


def estimate_minimum_loading(recipe: Recipe, shape: Shape, count: int) -> float:
    """Return the bytes that loading the base takes on one of `count` GPUs, sharded if that is allowed."""
    return estimate_loading(shape, _to_smallest_workload(recipe, count, 1.0))


def _to_smallest_workload(recipe: Recipe, count: int, loss_share: float) -> Workload:
    rows, sharded = recipe.compute.micro_batch_rows or 1, count > 1 and recipe.compute.strategy != "ddp"
    return dataclasses.replace(to_workload(recipe, loss_share), rows=rows, gpus=count, sharded=sharded)


def fit_on_cpu(recipe: Recipe, shape: Shape, loss_share: float = 1.0) -> Fit:
    """Return the training on the CPU: in 32 bit, all rows of a step at a time."""
    rows, on_gpu = recipe.compute.micro_batch_rows or recipe.train.batch_rows, to_workload(recipe, loss_share)
    shared = ("method", "rank", "targets", "modules_to_save", "tokens", "loss_share")
    work = Workload.on_the_cpu(
        rows=rows, masked=rows > 1 or recipe.train.packing, **{name: getattr(on_gpu, name) for name in shared}
    )
    return Fit(work, estimate_peak_memory(shape, work))


def _list_row_counts(recipe: Recipe, gpus: int) -> list[int]:
    if rows := recipe.compute.micro_batch_rows:
        return [rows]
    gpu_rows = max(1, recipe.train.batch_rows // gpus)
    return [rows for rows in ROWS if gpu_rows % rows == 0]
