"""Plan of a training: steps, tokens, and every hardware option that holds it, with time and cost."""

import math
from dataclasses import dataclass
from pathlib import Path

from tuneline.configs.hardware import Range, hardware
from tuneline.configs.models import Shape
from tuneline.configs.recipe import Recipe
from tuneline.stages.plan.dataset_size import DatasetSize, estimate_dataset
from tuneline.stages.plan.gpu_fit import Fit, fit_on_cpu, fit_on_gpus, to_workload
from tuneline.stages.plan.memory import MemoryParts, count_trained_parameters
from tuneline.stages.plan.training_cost import (
    Cost,
    estimate_costs,
    estimate_hours,
    estimate_speed,
    multiply_ranges,
)

COUNTS = (1, 2, 4, 8)
"""GPUs tried."""
PADDING = (1.0, 1.2)
"""Tokens computed per token in the rows; padding is small because rows of similar length are put together."""
CPU = ("CPU", 0)
"""Kind and count that stand for training without a GPU."""


@dataclass(frozen=True)
class TrainingOption:
    """One kind and count of GPUs that holds the training."""

    gpu: str
    count: int
    how: str
    """`one GPU`, `DDP` or `FSDP2`; `CPU`."""
    rows: int
    """At a time on one GPU."""
    memory: MemoryParts
    hours: Range | None
    tokens_per_second: Range
    costs: tuple[Cost, ...] = ()
    asked: bool = False
    """Whether it is what the recipe's compute.train says."""

    @property
    def usd(self) -> float:
        """The middle of the cheapest provider's range, by which options are sorted."""
        return min((sum(cost.usd) / 2 for cost in self.costs), default=math.inf)


@dataclass(frozen=True)
class TrainingPlan:
    """Steps, tokens, and every option that fits."""

    parameters_trained: int
    parameters_total: int
    parameters_active: int
    rows: DatasetSize
    steps: int | None
    epochs: float | None
    tokens: Range | None
    ways: tuple[TrainingOption, ...]
    """The cheapest first."""


def plan_training(recipe: Recipe, shape: Shape, dataset: DatasetSize) -> TrainingPlan:
    """Return the plan of the recipe's training on `dataset`."""
    steps = count_steps(recipe, dataset)
    epochs = None if steps is None or not dataset.train else steps * recipe.train.batch_rows / dataset.train
    tokens = _count_tokens(recipe, steps, dataset)
    options = [
        _describe_option(recipe, shape, tokens, kind, count, fit)
        for (kind, count), fit in _find_fitting_hardware(recipe, shape, dataset.learned).items()
    ]
    return TrainingPlan(
        parameters_trained=count_trained_parameters(shape, to_workload(recipe)),
        parameters_total=shape.total,
        parameters_active=shape.active,
        rows=dataset,
        steps=steps,
        epochs=epochs,
        tokens=tokens,
        ways=tuple(sorted(options, key=lambda option: (option.usd, option.count))),
    )


def plan_steps(recipe: Recipe, run: Path) -> int | None:
    """Return the number of steps of the recipe's training in a run's folder; None if the rows are not counted yet."""
    return count_steps(recipe, estimate_dataset(recipe, run))


def plan_cpu_training(recipe: Recipe, shape: Shape, dataset: DatasetSize) -> TrainingOption:
    """Return the training on this machine's CPU, whatever hardware the recipe asks for."""
    tokens = _count_tokens(recipe, count_steps(recipe, dataset), dataset)
    return _describe_option(recipe, shape, tokens, *CPU, fit_on_cpu(recipe, shape, dataset.learned))


def count_steps(recipe: Recipe, dataset: DatasetSize) -> int | None:
    """Return the number of steps; None if it depends on rows that cannot be counted yet."""
    train = recipe.train
    if train.max_steps:
        return train.max_steps
    return None if dataset.train is None else math.ceil(train.epochs * math.ceil(dataset.train / train.batch_rows))


def _count_tokens(recipe: Recipe, steps: int | None, dataset: DatasetSize) -> Range | None:
    if steps is None:
        return None
    rows = steps * recipe.train.batch_rows
    return multiply_ranges((rows, rows), dataset.tokens, PADDING)


def _find_fitting_hardware(recipe: Recipe, shape: Shape, loss_share: float) -> dict[tuple[str, int], Fit]:
    """Return what holds the training, by kind and count.

    Of each kind, that is the smallest count; and the recipe's own choice, which is the CPU if it names no GPU.
    """
    chosen = _read_chosen_hardware(recipe)
    fits = {CPU: fit_on_cpu(recipe, shape, loss_share)} if chosen == CPU else {}
    for kind in hardware().chips:
        for count in COUNTS:
            if fit := fit_on_gpus(recipe, shape, kind, count, loss_share):
                fits[kind, count] = fit
                break
    if chosen not in fits and (fit := fit_on_gpus(recipe, shape, *chosen, loss_share)):
        fits[chosen] = fit
    return fits


def _read_chosen_hardware(recipe: Recipe) -> tuple[str, int]:
    """Return the kind and count in the recipe's compute.train."""
    gpu = recipe.compute.train.gpu
    return hardware().parse_gpu(gpu) if gpu else CPU


def _describe_option(
    recipe: Recipe, shape: Shape, tokens: Range | None, kind: str, count: int, fit: Fit
) -> TrainingOption:
    speed = estimate_speed(recipe, shape, kind, count, fit.work)
    hours = estimate_hours(shape, count, tokens, speed) if tokens else None
    return TrainingOption(
        gpu=kind,
        count=count,
        how="CPU" if not count else "one GPU" if count == 1 else "FSDP2" if fit.work.sharded else "DDP",
        rows=fit.work.rows,
        memory=fit.memory,
        hours=hours,
        tokens_per_second=speed,
        costs=estimate_costs(recipe, kind, count, hours) if hours else (),
        asked=_read_chosen_hardware(recipe) == (kind, count),
    )
