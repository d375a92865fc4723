"""How much a share of right answers varies from one training to the next: runs that differ in their seeds alone.

An interval of one run is about the draw of its requests. What another seed would give is known only by training again.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import RECIPE
from tuneline.core.errors import TunelineError
from tuneline.stages.run_artifacts import read_stage

SEEDS = ("prepare.data.seed", "train.train.seed")
"""Settings, by stage, in which repetitions differ."""
STAGES = ("prepare", "train", "convert", "evaluate")


@dataclass(frozen=True)
class Spread:
    """The shares of right answers of several runs, on one suite."""

    runs: int
    mean: float
    deviation: float
    """Standard deviation between runs (n - 1)."""
    lowest: float
    highest: float
    machines: int
    """Number of different machines on which they were evaluated."""


@dataclass(frozen=True)
class _Recipe:
    """What a run was made from."""

    settings: Mapping[str, Any]
    """Everything but the seeds."""
    seeds: tuple[Any, ...]


def measure_spread(run: Path, target: str) -> dict[str, Spread]:
    """Return suite → how the share of `target` varies over this run and its repetitions beside it.

    Empty if the run is not evaluated, or if no other run there differs from it in its seeds alone.
    """
    evaluations = [read_stage(repetition, "evaluate") for repetition in _find_repetitions(run)]
    shares: dict[str, list[float]] = {}
    for row in (row for evaluated in evaluations for row in evaluated.metrics["scoreboard"]):
        if row["target"] == target:
            shares.setdefault(row["suite"], []).append(row["name_accuracy"])
    machines = len({evaluated.manifest.machines for evaluated in evaluations})
    return {suite: _spread(values, machines) for suite, values in shares.items() if len(values) > 1}


def _find_repetitions(run: Path) -> list[Path]:
    """Return the run and the others beside it that differ from it in their seeds alone, one for each pair of seeds."""
    own = _read_recipe(run)
    if own is None:
        return []
    repetitions = {own.seeds: run}
    for other in sorted(folder for folder in run.parent.iterdir() if (folder / RECIPE).exists()):
        if (recipe := _read_recipe(other)) and recipe.settings == own.settings:
            repetitions.setdefault(recipe.seeds, other)
    return [*repetitions.values()]


def _read_recipe(run: Path) -> _Recipe | None:
    """Return what a run was made from; None if a stage is not there, or not to be relied on."""
    try:
        made_from = {stage: read_stage(run, stage).manifest.made_from for stage in STAGES}
    except TunelineError:
        return None
    settings = {f"{stage}.{key}": value for stage, m in made_from.items() for key, value in m.settings.items()}
    seeds = tuple(settings.pop(key, None) for key in SEEDS)
    return _Recipe(settings | {"base": made_from["prepare"].needs.get("fetch")}, seeds)


def _spread(shares: list[float], machines: int) -> Spread:
    mean, deviation = statistics.mean(shares), statistics.stdev(shares)
    return Spread(len(shares), mean, deviation, min(shares), max(shares), machines)
