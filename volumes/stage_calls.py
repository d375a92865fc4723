"""Calls of a stage's Function on the recipe's hardware, from the first to the last successor.

The id of the call that is waited for is kept in the Dict of leases, so that a later pipeline run waits for the same.
"""

import time
from collections.abc import Mapping
from typing import Any

import modal

from tuneline.configs.compute import SPARE_S, Container
from tuneline.configs.recipe import Recipe
from tuneline.core import paths
from tuneline.core.errors import StageFailed
from tuneline.core.terminal import echo
from tuneline.stages.line import find_finished
from tuneline.volumes.call_errors import RUN_AGAIN, explain
from tuneline.volumes.call_outcomes import CALL_HOURS, Outcome, failed, succeeded, unfinished
from tuneline.volumes.cloud_secrets import require_secrets
from tuneline.volumes.leases import LEASES
from tuneline.volumes.mounts import ENVIRONMENT, synchronized

Functions = Mapping[tuple[str, bool], "modal.Function[Any, Any, Any]"]
"""(stage, on a GPU) → the Function on that hardware."""


def call_stage(stage: str, recipe: Recipe, run: str, functions: Functions, began: float) -> Outcome:
    """Run one stage to its end; `began` is when this pipeline run started (`time.monotonic`).

    Returns `unfinished` if the time of the pipeline run's own call is over; the stage's call goes on.
    """
    with synchronized(reads=("data", "models", "runs"), writes=()):
        if find_finished(stage, recipe, paths.run_folder(run)):
            echo(f"{stage:<9} finished already")
            return succeeded()
    container: Container = getattr(recipe.compute, stage)
    hours_left, key = container.hours, f"{run}/{stage}"
    while hours_left > 0:
        call = _pending_call(key)
        if call is None:
            call = _start_call(stage, recipe, run, functions, hours_left)
        try:
            outcome: Outcome = call.get(timeout=max(1.0, 3600 * CALL_HOURS - (time.monotonic() - began)))
        except modal.exception.OutputExpiredError:
            LEASES.pop(key, None)
            continue
        except Exception as error:
            if type(error) is TimeoutError and time.monotonic() - began >= 3600 * CALL_HOURS - 1:
                return unfinished()
            LEASES.pop(key, None)
            return failed(StageFailed(explain(stage, error, container)))
        LEASES.pop(key, None)
        if outcome["state"] != "unfinished":
            return outcome
        hours_left -= CALL_HOURS
        if hours_left > 0:
            echo(f"{stage:<9} its call's time is over; a successor goes on from the checkpoint")
    remedy = f"raise compute.{stage}.hours, now {container.hours:g}"
    return failed(StageFailed(f"{stage} was stopped when its time was over; {remedy}, and {RUN_AGAIN}"))


def _pending_call(key: str) -> "modal.FunctionCall[Any] | None":
    """Return the call of this stage that an earlier pipeline run started and did not see end; None if there is none."""
    call_id = LEASES.get(key)
    return modal.FunctionCall.from_id(call_id) if call_id else None


def _start_call(stage: str, recipe: Recipe, run: str, functions: Functions, hours: float) -> "modal.FunctionCall[Any]":
    container: Container = getattr(recipe.compute, stage)
    # The image with a GPU is also the one that holds what convert.folders needs.
    on_gpu = bool(container.gpu or (stage == "convert" and recipe.convert.folders))
    function = _with_hardware(functions[stage, on_gpu], container, hours)
    call = function.spawn(stage, recipe.to_json(), run, hours)
    LEASES.put(f"{run}/{stage}", call.object_id)
    return call


def _with_hardware(
    function: "modal.Function[Any, Any, Any]", container: Container, hours: float
) -> "modal.Function[Any, Any, Any]":
    """Return the Function with the recipe's hardware, time, retries, and the Secrets of `configs/cloud.yaml`.

    Cores and memory are limits as well as requests: beyond a request alone Modal lets a container grow, and bills what
    it used (modal.com/docs/guide/resources), so that the cost printed before the run would be no bound.
    """
    memory_mib = int(1024 * container.memory_gib)
    return function.with_options(
        gpu=container.gpu,
        cpu=(container.cores, container.cores),
        memory=(memory_mib, memory_mib),
        timeout=int(3600 * min(hours, CALL_HOURS) + SPARE_S),
        retries=modal.Retries(max_retries=container.retries, initial_delay=0.0),
        env=ENVIRONMENT,  # `secrets` replaces the decorator's
        secrets=require_secrets(),
    )
