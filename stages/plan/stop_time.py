"""How long a training takes to stop: it ends its step, validates and saves a checkpoint if they are due, then exits.

Measured where it can be: by the events of the run, or by preflight; planned until then.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.configs.compute import LONGEST_STOP_S, STOP_S
from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.errors import BadRecipe, TunelineError
from tuneline.core.events import read_events
from tuneline.core.meter import Meter
from tuneline.core.spending import read_attempts
from tuneline.stages.plan.base_shape import read_base_shape
from tuneline.stages.plan.dataset_size import estimate_dataset

if TYPE_CHECKING:
    from tuneline.stages.plan.training import TrainingPlan

MARGIN = 1.5
"""Factor on what was measured: later rows may be longer than those so far, and a machine may be busier."""
FORWARD = 0.5
"""Time of a token in validation, over that in training: without the backward pass."""
CHECKPOINT_GB_PER_SECOND = 0.1
"""Writing a checkpoint, hashing it and committing it to a Volume. An assumption: nothing was measured on Modal."""
OPTIMIZER_BYTES = 8.0
"""Of Adam's two states, in 32 bit; in 8 bit, where the model is whole on a GPU, they are a quarter of it."""
WEIGHT_BYTES = 4.0


@dataclass(frozen=True)
class StopTime:
    """Seconds of the longest step, validation and checkpoint; None is not known."""

    step: float | None = None
    validation: float | None = None
    checkpoint: float | None = None

    @property
    def total(self) -> float:
        """Seconds to grant between the stop signal and the end, with those that any stage has; all if not known."""
        known = sum(seconds or 0.0 for seconds in dataclasses.astuple(self))
        return LONGEST_STOP_S if self.step is None else STOP_S + known

    def or_else(self, other: "StopTime") -> "StopTime":
        """Return this with the parts that are not known taken from `other`."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return StopTime(*(second if first is None else first for first, second in pairs))


class StopTimer:
    """Measures from a training's events: each step, validation and checkpoint ends with an event of its own."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._longest: dict[str, float] = {}

    def add(self, event: dict[str, Any]) -> None:
        """Take the next event of the training, in order."""
        if event["kind"] == "started":
            self._last = None  # loading the model is no part of a step
        elif part := _part_ended_by(event):
            at = datetime.fromisoformat(event["time"]).timestamp()
            if self._last is not None:
                self._longest[part] = max(self._longest.get(part, 0.0), at - self._last)
            self._last = at

    @property
    def measured(self) -> StopTime:
        """The longest of each part so far, times `MARGIN`."""
        return StopTime(**{part: MARGIN * seconds for part, seconds in self._longest.items()})


def _part_ended_by(event: dict[str, Any]) -> str | None:
    if event["kind"] == "metrics" and "validation_loss" not in event:
        return "step"
    return {"metrics": "validation", "sample": "validation", "checkpoint": "checkpoint"}.get(event["kind"])


def find_stop_time(recipe: Recipe, run: Path) -> StopTime:
    """Return what a training of this run needs to stop, as measured or, where nothing was measured, as planned.

    A checkpoint takes as long as the longest commit of the run on top.
    """
    measured, planned = measure_stop_time(run), plan_stop_time_of_run(recipe, run)
    committed = MARGIN * max((a.publish_s for a in read_attempts(run) if a.stage == "train"), default=0.0)
    if measured.checkpoint is not None:
        measured = dataclasses.replace(measured, checkpoint=measured.checkpoint + committed)
    return measured.or_else(planned)


def watch_stop_time(meter: Meter, known: StopTime) -> Callable[[dict[str, Any]], None]:
    """Return a function that takes the events of a training and tells its meter how long stopping takes.

    That is `known` until the training has measured it.
    """
    timer, meter.stop_s = StopTimer(), known.total

    def watch(event: dict[str, Any]) -> None:
        timer.add(event)
        meter.stop_s = timer.measured.or_else(known).total

    return watch


def measure_stop_time(run: Path) -> StopTime:
    """Return what the run's own training or, before that, its preflight has measured."""
    timer = StopTimer()
    for event in read_events(run):
        if event["stage"] == "train":
            timer.add(event)
    if not artifacts.is_finished(run / "preflight"):
        return timer.measured
    preflight = artifacts.open_artifact(run / "preflight").metrics["measured"].get("stop", {})
    return timer.measured.or_else(StopTime(**preflight))


def plan_stop_time_of_run(recipe: Recipe, run: Path) -> StopTime:
    """Return the planned stop time of a recipe in a run's folder; nothing known if its base is not known yet."""
    from tuneline.stages.plan.training import plan_training

    try:
        shape = read_base_shape(recipe)
    except TunelineError:  # not fetched yet
        return StopTime()
    return plan_stop_time(recipe, plan_training(recipe, shape, estimate_dataset(recipe, run)))


def plan_stop_time(recipe: Recipe, plan: "TrainingPlan") -> StopTime:
    """Return the planned upper ends on the recipe's own hardware; nothing if that does not hold the training."""
    option = next((option for option in plan.ways if option.asked), None)
    if option is None:
        return StopTime()  # refused elsewhere, or a machine that configs/hardware.yaml does not know
    slowest = option.tokens_per_second[0]
    optimizer_bytes = OPTIMIZER_BYTES if option.how in ("CPU", "FSDP2") else OPTIMIZER_BYTES / 4
    return StopTime(
        step=recipe.train.batch_rows * recipe.data.max_tokens / slowest,
        validation=FORWARD * plan.rows.validation * plan.rows.tokens[1] / slowest,
        checkpoint=plan.parameters_trained * (WEIGHT_BYTES + optimizer_bytes) / CHECKPOINT_GB_PER_SECOND / 1e9,
    )


def refuse_too_slow(stop_time: StopTime) -> None:
    """Raise BadRecipe if stopping takes longer than a call on Modal has for it."""
    if stop_time.total <= LONGEST_STOP_S:
        return
    keys = {
        "step": "train.batch_rows or data.max_tokens",
        "validation": "data.validation_rows",
        "checkpoint": "train.rank, or use another train.method",
    }
    seconds = {part: value or 0.0 for part, value in dataclasses.asdict(stop_time).items()}
    longest = max(seconds, key=lambda part: seconds[part])
    parts = ", ".join(f"a {part} up to {value:,.0f} s" for part, value in seconds.items())
    raise BadRecipe(
        f"compute.train: stopping with a checkpoint takes too long for a call on Modal ({parts}; together at most "
        f"{LONGEST_STOP_S - STOP_S:,.0f} s); lower {keys[longest]}, or use faster hardware"
    )
