"""The line: which stages there are, in which order they run, and which are finished."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import BadRequest, NotFound, StageFailed
from tuneline.core.meter import Limits, Meter
from tuneline.core.spending import read_usd_per_hour
from tuneline.core.tracking import track
from tuneline.stages.stage_process import Show, restore_recipe, run_in_child, stage_function

ORDER = ("fetch", "prepare", "train", "convert", "evaluate")
SIDE_STAGES = {"preflight": "prepare"}
"""Stages that no other stage needs, each with the last stage before it."""


def run_line(recipe: Recipe, until: str, call: Callable[[str], Artifact], *, only: bool = False) -> list[Artifact]:
    """Run the stages up to `until`, or just that one; `call(stage)` makes or finds a stage's artifact.

    Raises:
        BadRequest: there is no such stage. Whatever `call` raises ends the run.
    """
    stages = stages_up_to(until)
    return [call(stage) for stage in (stages[-1:] if only else stages)]


def stages_up_to(until: str) -> tuple[str, ...]:
    """Return the stages that a verb runs, in order.

    Raises:
        BadRequest: there is no such stage.
    """
    if until in SIDE_STAGES:
        return (*stages_up_to(SIDE_STAGES[until]), until)
    if until not in ORDER:
        raise BadRequest(f"{until!r} is not a stage; known: {', '.join((*ORDER, *SIDE_STAGES))}")
    return ORDER[: ORDER.index(until) + 1]


def describe_stages(recipe: Recipe, run: Path, stages: tuple[str, ...]) -> dict[str, str]:
    """Return `finished` or `to do` for each of `stages`.

    Raises:
        StaleArtifact: finished work was made from other settings.
    """
    return {stage: "finished" if find_finished(stage, recipe, run) else "to do" for stage in stages}


def find_finished(stage: str, recipe: Recipe, run: Path) -> Artifact | None:
    """Return the stage's artifact, or None if it is not finished or an artifact it needs is gone.

    The stage function itself decides: if the stage is finished, it compares fingerprints and imports nothing heavy.

    Raises:
        StaleArtifact: it is finished, but made from other settings.
    """
    with contextlib.suppress(NotFound):
        if stage == "fetch":
            from tuneline.stages.fetch.bases import open_base

            return open_base(recipe)
        if artifacts.is_finished(run / stage):
            return stage_function(stage)(recipe, run)
    return None


def subprocess_runner(
    recipe: Recipe, run: Path, show: Show, open_meter: Callable[[str], AbstractContextManager[Meter]] | None = None
) -> Callable[[str], Artifact]:
    """Return a `call` for `run_line` that runs each stage in a child process and passes its events to `show`.

    A finished stage is only opened. Errors are raised as the stage raised them. When `open_meter(stage)` has reached a
    limit, the stage gets SIGTERM; training then saves a checkpoint, from which the same call continues. By default
    that is `compute.max_cost_usd` at the price of an hour on this machine.
    """
    open_meter = open_meter or partial(
        Meter, run, limits=Limits(usd=recipe.compute.max_cost_usd), usd_per_hour=read_usd_per_hour()
    )

    def call(stage: str) -> Artifact:
        if artifact := find_finished(stage, recipe, run):
            restore_recipe(recipe, run)
            show({"stage": stage, "kind": "finished"})
            return artifact
        with open_meter(stage) as meter:
            _run_measured(stage, recipe, run, show, meter)
            artifact = find_finished(stage, recipe, run)
            if artifact is None:
                raise StageFailed(f"{stage} ended without its artifact; see {run / 'logs' / stage}.log")
            meter.finish()
        return artifact

    return call


def _run_measured(stage: str, recipe: Recipe, run: Path, show: Show, meter: Meter) -> None:
    settings = recipe.section(stage) if hasattr(recipe, stage) else {}
    try:
        with track(run, stage, settings, lambda text: show({"stage": stage, "kind": "warning", "text": text})):
            run_in_child(stage, recipe, run, show, meter)
    except StageFailed as error:
        if limit := meter.reached():
            raise meter.error(limit, f"{stage} was stopped; saved work is kept") from error
        raise
