"""The pipeline run on Modal: a small Function that calls the stages' Functions, each on its hardware.

It may be preempted, or reach its own 24 hours: the call it waits for is recorded, so that its successor waits for it.
"""

import time
from typing import Any

import modal

from tuneline.configs.recipe import Recipe
from tuneline.core import paths
from tuneline.core.artifacts import open_artifact
from tuneline.core.errors import TunelineError
from tuneline.core.notification import notify
from tuneline.core.terminal import echo, guard_output
from tuneline.stages.line import stages_up_to
from tuneline.volumes.call_outcomes import Outcome, failed, succeeded
from tuneline.volumes.leases import lease
from tuneline.volumes.mounts import synchronized
from tuneline.volumes.stage_calls import Functions, call_stage


def run_pipeline(
    recipe_json: str,
    run: str,
    stages: list[str],
    ticket: str,
    functions: Functions,
    successor: "modal.Function[Any, Any, Any]",
) -> Outcome:
    """Run the stages that are not finished, in order; `ticket` identifies this pipeline run across its successors.

    The message of an `unfinished` outcome is the id of the successor's call.
    """
    guard_output()
    recipe, began = Recipe.model_validate_json(recipe_json), time.monotonic()
    try:
        with lease(run, ticket, modal.current_function_call_id() or ""):
            outcome = _run_stages(recipe, run, stages, functions, began)
    except TunelineError as error:
        outcome = failed(error)
    if outcome["state"] == "unfinished":
        return outcome | {"message": successor.spawn(recipe_json, run, stages, ticket).object_id}
    texts = {"": "is done", "GateFailed": f"is done, and its gate says no: {outcome['message']}"}
    text = texts.get(outcome["kind"], f"failed: {outcome['message']}")
    notify(f"Tuneline run {run} ({stages[-1]}) {text}", run=run, state=outcome["state"])
    return outcome


def _run_stages(recipe: Recipe, run: str, stages: list[str], functions: Functions, began: float) -> Outcome:
    """Call the stages until one does not finish.

    Raises:
        GateFailed: the evaluation is finished, and its gate did not let the model pass.
    """
    outcome = succeeded()
    for stage in stages:
        outcome = call_stage(stage, recipe, run, functions, began)
        if outcome["state"] != "finished":
            return outcome
    if stages[-1] == "evaluate":
        _check_gate(run)
    if stages[-1] == "preflight":
        _check_preflight(recipe, run)
    return outcome


def _check_gate(run: str) -> None:
    from tuneline.stages.evaluate.verdicts.gate import require_pass

    with synchronized(reads=("runs",), writes=()):
        require_pass(open_artifact(paths.run_folder(run) / "evaluate"))


def _check_preflight(recipe: Recipe, run: str) -> None:
    from tuneline.stages.preflight import format_comparison, refuse_over_budget

    with synchronized(reads=("runs",), writes=()):
        echo(format_comparison(paths.run_folder(run)))
        refuse_over_budget(recipe, paths.run_folder(run))


def stages_of_verb(until: str, only: bool) -> list[str]:
    """Return the stages that a verb runs, in order: all up to `until`, or `until` alone."""
    return [until] if only else list(stages_up_to(until))
