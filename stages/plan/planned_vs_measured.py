"""The plan held against what a run measured, so that the next estimate can be better."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.hardware import Range, hardware
from tuneline.configs.recipe import Recipe, recipe_of
from tuneline.core.errors import TunelineError
from tuneline.stages.plan import shape_of_base
from tuneline.stages.plan.dataset_size import rows_of
from tuneline.stages.plan.training import Way, training, way_on_cpu

INTERPRETER_GB = 0.6
"""What Python, torch and Transformers hold before there is a model; measured by benchmarks/plan.py."""


@dataclass(frozen=True)
class Compared:
    """One figure, as it was planned and as it was."""

    what: str
    unit: str
    planned: Range
    measured: float
    mend: str = ""
    """The line of a TUNELINE_HARDWARE file that would have been right, where there is one."""


def against(run: Path, seconds: float, events: Iterable[dict[str, Any]]) -> list[Compared]:
    """Speed, time, memory and cost of a training that took `seconds`; empty if its recipe cannot be planned any more.

    With the rows that `prepare` counted; memory without CUDA's own, or without the
    interpreter's on a CPU; cost at the prices of the table, and only where there was a GPU.
    """
    try:
        recipe = recipe_of(run)
        shape = shape_of_base(recipe)
    except (OSError, ValueError, TunelineError):
        return []
    seen = [e for e in events if e.get("stage") == "train" and e.get("kind") == "metrics"]
    on_gpu, rows = any("memory_gb" in e for e in seen), rows_of(recipe, run)
    if on_gpu:
        way = next((way for way in training(recipe, shape, rows).ways if way.asked), None)
    else:
        way = way_on_cpu(recipe, shape, rows)
    return [] if way is None else list(_figures(recipe, way, seconds, seen, on_gpu=on_gpu))


def _figures(
    recipe: Recipe, way: Way, seconds: float, seen: list[dict[str, Any]], *, on_gpu: bool
) -> Iterable[Compared]:
    if speeds := [float(e["tokens_per_second"]) for e in seen if "tokens_per_second" in e]:
        reached = statistics.median(speeds)
        yield Compared("speed", "tokens/s", way.tokens_per_second, reached, _mend(recipe, way, reached, on_gpu=on_gpu))
    if way.hours:
        low, high = way.hours
        yield Compared("time", "h", (low, high), seconds / 3600)
    own, key = (0.0, "memory_gb") if on_gpu else (INTERPRETER_GB, "process_gb")
    if held := [float(e[key]) - own for e in seen if key in e]:
        yield Compared("memory", "GB", (way.memory.allocated / 1e9,) * 2, max(held))
    modal = next((cost for cost in way.costs if cost.provider == "modal"), None)
    if on_gpu and modal:
        asked = recipe.compute.train
        paid = seconds * hardware().usd_per_second(asked.gpu, asked.cores, asked.memory_gib)
        yield Compared("cost", "USD", modal.usd, paid)


def _mend(recipe: Recipe, way: Way, reached: float, *, on_gpu: bool) -> str:
    """The share of the hardware's speed that gives what was reached, a tenth to either side."""
    low, high = way.tokens_per_second
    if low <= reached <= high:
        return ""
    name = recipe.train.method if on_gpu else "cpu_gflops_per_core"
    was = getattr(hardware().speed, name)
    share = (was[0] * was[1]) ** 0.5 * reached / (low * high) ** 0.5
    return f"speed: {{{name}: [{0.9 * share:.3g}, {1.1 * share:.3g}]}}"
