"""What runs in a stage's container: the stage, between a reload of the Volumes and a commit at every checkpoint.

Errors that a retry cannot fix come back as values; only preemption and lost machines are left to Modal's retries.
"""

import contextlib
import json
import math
import os
import time
from typing import Any

import modal

from tuneline.configs.recipe import Recipe
from tuneline.core import paths
from tuneline.core.errors import StageFailed, TunelineError
from tuneline.core.terminal import echo, guard_output
from tuneline.stages.line import subprocess_runner
from tuneline.stages.stage_process import describe_bug
from tuneline.volumes.call_outcomes import CALL_HOURS, Outcome, failed, succeeded, unfinished
from tuneline.volumes.mounts import commit, synchronized

PROGRESS_KINDS = {"progress", "metrics", "checkpoint"}
"""Kinds of events that show progress; a stage that makes none must not be called again for ever."""


def run_stage(stage: str, recipe_json: str, run: str, hours: float) -> Outcome:
    """Run one stage of a run in this container, for at most `hours`."""
    guard_output()
    began, seconds = time.monotonic(), 3600 * min(hours, CALL_HOURS)
    recipe, event_kinds = Recipe.model_validate_json(recipe_json), set[str]()
    _limit_to_cores(getattr(recipe.compute, stage).cores)
    try:
        _run_synchronized(stage, recipe, run, seconds, event_kinds)
    except TunelineError as error:
        if isinstance(error, StageFailed) and time.monotonic() - began >= seconds:
            if event_kinds & PROGRESS_KINDS:
                return unfinished(str(error))
            hours = getattr(recipe.compute, stage).hours
            error = StageFailed(
                f"{stage} did nothing but start in a call of {seconds / 3600:.3g} h, and another would do no more; "
                f"raise compute.{stage}.hours, now {hours:g}, and run the same command again"
            )
        return failed(error)
    except (OSError, modal.exception.Error):  # of this machine or of Modal: another container may do better
        raise
    except Exception:
        return failed(describe_bug(stage))
    return succeeded()


def _limit_to_cores(cores: float) -> None:
    """Use as many threads as cores are paid for: a container sees its machine's, and is throttled if it uses more."""
    available = sorted(os.sched_getaffinity(0))
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, available[: max(1, math.ceil(cores))])


def _run_synchronized(stage: str, recipe: Recipe, run: str, seconds: float, event_kinds: set[str]) -> None:
    """Run the stage in a subprocess; the kinds of its events are added to `event_kinds`."""
    from tuneline.core.progress import Progress
    from tuneline.core.safe_console import SafeConsole

    writes = ("models", "runs") if stage == "fetch" else ("runs",)
    reads = tuple(name for name in ("data", "models") if name not in writes)
    with synchronized(reads, writes), Progress(SafeConsole()) as progress:

        def follow(event: dict[str, Any]) -> None:
            progress.show(event)
            event_kinds.add(event["kind"])
            if event["kind"] == "checkpoint":
                commit("runs")

        price = getattr(recipe.compute, stage).usd_per_hour
        subprocess_runner(recipe, paths.run_folder(run), follow, seconds, price)(stage)


def change_policy(verb: str, arguments: list[str]) -> Outcome:
    """Apply a verb of `tuneline.endpoints.policy` to the policy Volume."""
    from tuneline.endpoints.policy import VERBS

    guard_output()
    with synchronized(reads=("runs",), writes=("policy",)):
        try:
            return succeeded(VERBS[verb](*arguments))
        except TunelineError as error:
            return failed(error)


def evaluate_promoted() -> None:
    """Evaluate every promoted model, and write and print the scores."""
    from tuneline.endpoints.scheduled_evaluation import evaluate_all

    guard_output()
    with synchronized(reads=("data", "models", "policy", "runs"), writes=("scores",)):
        for score in evaluate_all():
            echo(json.dumps(score))
