"""Calls of a stage's Function on the recipe's hardware, from the first to the last successor.

Which call is waited for is kept in the Dict of leases, so that a later pipeline run waits for the same.
"""

import time
from collections.abc import Mapping
from typing import Any

import modal

from tuneline.configs.compute import STOP_S, WAIT_HOURS, Container
from tuneline.configs.recipe import Recipe
from tuneline.core import paths
from tuneline.core.errors import StageFailed
from tuneline.core.spending import read_attempts, sum_hours
from tuneline.core.terminal import echo
from tuneline.stages.line import find_finished
from tuneline.stages.plan.stop_time import find_stop_time, refuse_too_slow
from tuneline.volumes.call_errors import RUN_AGAIN, describe_more_hours, explain
from tuneline.volumes.call_outcomes import CALL_HOURS, Outcome, failed, succeeded, unfinished
from tuneline.volumes.cloud_secrets import require_secrets
from tuneline.volumes.mounts import ENVIRONMENT, synchronized
from tuneline.volumes.single_calls import cancel_awaited, find_or_start, forget

StageFunction = tuple[str, bool]
"""A stage, and whether it runs on a GPU."""
Functions = Mapping[StageFunction, "modal.Function[Any, Any, Any]"]
"""The Function on that hardware."""


def choose_function(stage: str, recipe: Recipe) -> StageFunction:
    """Return which Function runs a stage of a recipe. The image with a GPU also holds what convert.folders needs."""
    container: Container = getattr(recipe.compute, stage)
    return stage, bool(container.gpu or (stage == "convert" and recipe.convert.folders))


class WaitingTime:
    """How long this call of the pipeline run may wait: `CALL_HOURS` from now, and `hours` from `since` in all."""

    def __init__(self, hours: float, since: float) -> None:
        """`since` is when the pipeline run's first call began, in Unix seconds."""
        self.hours, self._ends, self._call_ends = hours, since + 3600 * hours, time.time() + 3600 * CALL_HOURS

    @property
    def seconds_left(self) -> float:
        return min(self._call_ends, self._ends) - time.time()

    @property
    def is_over(self) -> bool:
        """Whether all of its calls together have waited long enough."""
        return self._ends <= self._call_ends and self.seconds_left <= 0


def call_stage(
    stage: str, recipe: Recipe, run: str, functions: Functions, waiting: WaitingTime, train_stop_s: float
) -> Outcome:
    """Run one stage to its end, in as many calls as that takes; training is granted `train_stop_s` to stop.

    Returns `unfinished` if the time of the pipeline run's own call is over; the stage's call goes on.

    Raises:
        BadRecipe: training takes too long to stop. StaleArtifact: the stage is finished with other settings.
        StageFailed: the stage's hours are used, or those of the pipeline run.
    """
    if _is_finished(stage, recipe, run):
        echo(f"{stage:<9} already finished")
        return succeeded()
    key, stop_s = f"{run}/{stage}", train_stop_s if stage == "train" else STOP_S
    while True:
        call = find_or_start(key, lambda awaited: _start(stage, recipe, run, functions, awaited, stop_s))
        try:
            outcome: Outcome = call.get(timeout=max(1.0, waiting.seconds_left))
        except modal.exception.OutputExpiredError:
            outcome = unfinished()
        except Exception as error:
            if type(error) is TimeoutError and waiting.seconds_left <= 0:
                if waiting.is_over:
                    cancel_awaited(key)
                    raise _waited_too_long(stage, waiting) from None
                return unfinished()
            outcome = failed(StageFailed(explain(stage, error, getattr(recipe.compute, stage))))
        forget(key)
        if outcome["state"] != "unfinished":
            return outcome
        echo(f"{stage:<9} its call reached its time limit; a successor resumes from the checkpoint")
        _ = _is_finished(stage, recipe, run)  # reloads what the call has committed


def _is_finished(stage: str, recipe: Recipe, run: str) -> bool:
    """Reload the Volumes, and return whether the stage is finished."""
    with synchronized(reads=("data", "models", "runs"), writes=()):
        return find_finished(stage, recipe, paths.run_folder(run)) is not None


def _waited_too_long(stage: str, waiting: WaitingTime) -> StageFailed:
    return StageFailed(
        f"{stage} is cancelled: the run was to take {waiting.hours:.3g} h at most, {WAIT_HOURS:g} of them to wait for "
        f"containers; Modal may be short of {stage}'s hardware, so change compute.{stage}, or {RUN_AGAIN}"
    )


def _start(
    stage: str, recipe: Recipe, run: str, functions: Functions, awaited: str, stop_s: float
) -> "modal.FunctionCall[Any]":
    """Start a call of the stage, for the hours that are left."""
    container: Container = getattr(recipe.compute, stage)
    hours = container.hours - sum_hours(read_attempts(paths.run_folder(run)), stage)
    if hours <= 0:
        used = f"{container.hours - hours:.3g} h, over all its calls"
        raise StageFailed(f"{stage} has used its time, {used}; {describe_more_hours(stage, container)}")
    if stage == "train":
        refuse_too_slow(find_stop_time(recipe, paths.run_folder(run)))
    function = _with_hardware(functions[choose_function(stage, recipe)], container, hours, stop_s)
    return function.spawn(stage, recipe.to_json(), run, awaited, stop_s)


def _with_hardware(
    function: "modal.Function[Any, Any, Any]", container: Container, hours: float, stop_s: float
) -> "modal.Function[Any, Any, Any]":
    """Return the Function with the recipe's hardware, time, retries, and the Secrets of `configs/cloud.yaml`.

    Cores and memory are limits as well as requests: beyond a request alone Modal lets a container grow, and bills what
    it used (modal.com/docs/guide/resources), so that the cost printed before the run would be no bound. Modal's own
    timeout is for a container that does not keep its limits itself: it begins anew with each preemption and retry.
    """
    memory_mib = int(1024 * container.memory_gib)
    return function.with_options(
        gpu=container.gpu,
        cpu=(container.cores, container.cores),
        memory=(memory_mib, memory_mib),
        timeout=int(3600 * min(hours, CALL_HOURS) + stop_s),
        retries=modal.Retries(max_retries=container.retries, initial_delay=0.0),
        env=ENVIRONMENT,  # `secrets` replaces the decorator's
        secrets=require_secrets(),
    )
