"""What runs in a stage's container: the stage, between a reload of the Volumes and a commit at every checkpoint.

Errors that a retry cannot fix come back as values; only preemption and lost machines are left to Modal's retries.
The container keeps the limits itself, by what is written down beside the run: a preempted call is started again by
Modal with all of its time (modal.com/docs/guide/preemption, /guide/timeouts: "per execution attempt").
"""

import contextlib
import json
import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import modal

from tuneline.configs.cloud import Schedule, cloud
from tuneline.configs.compute import PIPELINE_CONTAINER, Container
from tuneline.configs.hardware import hardware
from tuneline.configs.recipe import Recipe
from tuneline.core import paths
from tuneline.core.errors import Locked, StageFailed, TunelineError
from tuneline.core.meter import Limits, Meter
from tuneline.core.terminal import echo, guard_output
from tuneline.stages.line import subprocess_runner
from tuneline.stages.plan.stop_time import find_stop_time, watch_stop_time
from tuneline.stages.stage_process import describe_bug
from tuneline.volumes.call_errors import describe_more_hours
from tuneline.volumes.call_outcomes import CALL_HOURS, Outcome, failed, succeeded, unfinished
from tuneline.volumes.container_meter import ContainerMeter, process_age_s
from tuneline.volumes.endpoint_capacity import refuse_unless_endpoint_fits
from tuneline.volumes.mounts import commit, committed, synchronized
from tuneline.volumes.single_calls import is_awaited

PROGRESS_KINDS = {"progress", "metrics", "checkpoint"}
"""Kinds of events that show progress; a stage that makes none must not be called again for ever."""


def run_stage(stage: str, recipe_json: str, run: str, awaited: str, stop_s: float) -> Outcome:
    """Run one stage of a run in this container, until its call or its hours are over, with `stop_s` to stop in.

    Nothing is written unless this is the call that the pipeline run waits for, by the token `awaited`.
    """
    guard_output()
    if not is_awaited(awaited):
        return failed(Locked(f"{stage}: another call is working on it"))
    recipe = Recipe.model_validate_json(recipe_json)
    _limit_to_cores(getattr(recipe.compute, stage).cores)
    try:
        return _run_synchronized(stage, recipe, run, stop_s)
    except TunelineError as error:
        return failed(error)
    except (OSError, modal.exception.Error):  # of this machine or of Modal: another container may do better
        raise
    except Exception:
        return failed(describe_bug(stage))


def _limit_to_cores(cores: float) -> None:
    """Use as many threads as cores are paid for: a container sees its machine's, and is throttled if it uses more."""
    available = sorted(os.sched_getaffinity(0))
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, available[: max(1, math.ceil(cores))])


def _run_synchronized(stage: str, recipe: Recipe, run: str, stop_s: float) -> Outcome:
    """Run the stage in a subprocess.

    Raises:
        StageFailed: its time is over, or its call's time and it has made no progress. Whatever the stage raises.
    """
    from tuneline.core.progress import Progress
    from tuneline.core.safe_console import SafeConsole

    writes = ("models", "runs") if stage == "fetch" else ("runs",)
    with synchronized(("data", "models", "runs"), ("runs",)), Progress(SafeConsole()) as progress:
        meter, event_kinds = _make_meter(stage, recipe, run, stop_s), set[str]()
        watch_stop_time = _watch_stop_time(stage, recipe, run, meter)

        def follow(event: dict[str, Any]) -> None:
            progress.show(event)
            event_kinds.add(event["kind"])
            watch_stop_time(event)
            if event["kind"] == "checkpoint":
                meter.publish()

        try:
            with meter, committed(*writes):  # the meter counts the commit too
                subprocess_runner(recipe, paths.run_folder(run), follow, lambda _: contextlib.nullcontext(meter))(stage)
        except StageFailed as error:
            if meter.reached() != "call":
                raise
            if event_kinds & PROGRESS_KINDS:
                return unfinished(str(error))
            raise _describe_bare_start(stage) from None
    return succeeded()


def _make_meter(stage: str, recipe: Recipe, run: str, stop_s: float) -> Meter:
    container: Container = getattr(recipe.compute, stage)
    limits = Limits(
        hours=container.hours,
        usd=recipe.compute.max_cost_usd,
        call_s=3600 * CALL_HOURS,
        stop_s=stop_s,
        hours_remedy=describe_more_hours(stage, container),
    )
    usd_per_hour = container.usd_per_hour + PIPELINE_CONTAINER.usd_per_hour  # which waits for this one
    age_s, publish = process_age_s(), partial(commit, "runs")
    return Meter(
        paths.run_folder(run),
        stage,
        limits,
        usd_per_hour,
        price_source=hardware().source,
        where="modal",
        age_s=age_s,
        publish=publish,
    )


def _watch_stop_time(stage: str, recipe: Recipe, run: str, meter: Meter) -> Callable[[dict[str, Any]], None]:
    if stage != "train":
        return lambda event: None
    return watch_stop_time(meter, find_stop_time(recipe, paths.run_folder(run)))


def _describe_bare_start(stage: str) -> StageFailed:
    return StageFailed(
        f"{stage} could only start within a call of {CALL_HOURS:.3g} h, and another call would not get further; "
        "TUNELINE_CALL_HOURS sets a call's time (default 23)"
    )


def change_policy(verb: str, arguments: list[str]) -> Outcome:
    """Apply a verb of `tuneline.endpoints.policy` to the policy Volume, or of `run_removal` to that of runs."""
    from tuneline.endpoints.policy import VERBS
    from tuneline.volumes import run_removal

    guard_output()
    removes = verb in run_removal.VERBS
    reads, writes = (("policy",), ("runs",)) if removes else (("runs", "logs"), ("policy",))
    with synchronized(reads, writes):
        try:
            if verb == "promote":
                refuse_unless_endpoint_fits(cloud().endpoint, *arguments[:2])
            return succeeded((VERBS | run_removal.VERBS)[verb](*arguments))
        except TunelineError as error:
            return failed(error)


def evaluate_promoted() -> None:
    """Evaluate every promoted model, and write and print the scores."""
    from tuneline.endpoints.scheduled_evaluation import evaluate_all

    guard_output()
    _limit_to_cores(Schedule.cores)
    meter = ContainerMeter("schedule", "evaluation", Schedule.usd_per_hour(), paths.scores())

    def publish() -> None:
        if meter.record():
            commit("scores")

    with synchronized(reads=("data", "models", "policy", "runs"), writes=("scores",)):
        publish()
        try:
            for score in evaluate_all(publish):
                echo(json.dumps(score))
        finally:
            meter.record(is_over=True)
