"""Comparison of the training plan with what a run measured, to correct the next estimate."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.hardware import Range, hardware
from tuneline.configs.recipe import Recipe, recipe_of
from tuneline.core.errors import TunelineError
from tuneline.stages.plan.base_shape import read_base_shape
from tuneline.stages.plan.dataset_size import estimate_dataset
from tuneline.stages.plan.training import TrainingOption, plan_cpu_training, plan_training

INTERPRETER_GB = 0.6
"""Memory of Python, torch and Transformers before there is a model; measured by benchmarks/plan.py."""


@dataclass(frozen=True)
class Comparison:
    """One figure, planned and measured."""

    name: str
    unit: str
    planned: Range
    measured: float
    correction: str = ""
    """Line for a TUNELINE_HARDWARE file that makes the plan right; empty if it was right, or no such line exists."""


def compare_with_measurements(
    run: Path, seconds: float, events: Iterable[dict[str, Any]], cost_usd: float | None = None
) -> list[Comparison]:
    """Return speed, time, memory and cost of a training that took `seconds`, with what the plan says.

    The plan uses the rows that `prepare` counted. Memory excludes the CUDA context, or the interpreter on a CPU.
    `cost_usd` is what the machine that trained cost; without it no cost is compared, since the recipe's prices are of
    other hardware, as far as anybody knows. Empty if the run's recipe can no longer be planned.
    """
    try:
        recipe = recipe_of(run)
        shape = read_base_shape(recipe)
    except (OSError, ValueError, TunelineError):
        return []
    metrics = [e for e in events if e.get("stage") == "train" and e.get("kind") == "metrics"]
    on_gpu, dataset = any("memory_gb" in e for e in metrics), estimate_dataset(recipe, run)
    if on_gpu:
        option = next((option for option in plan_training(recipe, shape, dataset).ways if option.asked), None)
    else:
        option = plan_cpu_training(recipe, shape, dataset)
    return [] if option is None else list(_compare(recipe, option, seconds, metrics, cost_usd, on_gpu=on_gpu))


def _compare(
    recipe: Recipe,
    option: TrainingOption,
    seconds: float,
    metrics: list[dict[str, Any]],
    cost_usd: float | None,
    *,
    on_gpu: bool,
) -> Iterable[Comparison]:
    if speeds := [float(e["tokens_per_second"]) for e in metrics if "tokens_per_second" in e]:
        median = statistics.median(speeds)
        correction = _correct_speed(recipe, option, median, on_gpu=on_gpu)
        yield Comparison("speed", "tokens/s", option.tokens_per_second, median, correction)
    if option.hours:
        yield Comparison("time", "h", option.hours, seconds / 3600)
    baseline, key = (0.0, "memory_gb") if on_gpu else (INTERPRETER_GB, "process_gb")
    if memory := [float(e[key]) - baseline for e in metrics if key in e]:
        yield Comparison("memory", "GB", (option.memory.allocated / 1e9,) * 2, max(memory))
    modal = next((cost for cost in option.costs if cost.provider == "modal"), None)
    if on_gpu and modal and cost_usd is not None:
        yield Comparison("cost", "USD", modal.usd, cost_usd)


def _correct_speed(recipe: Recipe, option: TrainingOption, measured: float, *, on_gpu: bool) -> str:
    """Return the line with the range of the hardware's speed that gives `measured`, a tenth to either side."""
    low, high = option.tokens_per_second
    if low <= measured <= high:
        return ""
    name = recipe.train.method if on_gpu else "cpu_gflops_per_core"
    planned = getattr(hardware().speed, name)
    share = (planned[0] * planned[1]) ** 0.5 * measured / (low * high) ** 0.5
    return f"speed: {{{name}: [{0.9 * share:.3g}, {1.1 * share:.3g}]}}"
