"""The pipeline run on Modal: a small Function that calls the stages' Functions, each on its hardware.

It may be preempted, or reach its own 24 hours: the call it waits for is recorded, so that its successor waits for it.
"""

import hashlib
from typing import Any, TypedDict

import modal

from tuneline.configs.recipe import Recipe
from tuneline.core import paths
from tuneline.core.errors import Locked, TunelineError
from tuneline.core.notification import notify
from tuneline.core.terminal import echo, guard_output
from tuneline.stages.line import stages_up_to
from tuneline.stages.run_artifacts import open_stage
from tuneline.stages.runs import failures
from tuneline.stages.runs.incomplete import reopen_incomplete
from tuneline.volumes.call_outcomes import Outcome, failed, succeeded, unfinished
from tuneline.volumes.leases import holder, lease
from tuneline.volumes.mounts import synchronized
from tuneline.volumes.single_calls import find_awaited, find_or_start, is_awaited, key_of_successor
from tuneline.volumes.stage_calls import Functions, WaitingTime, call_stage


class Order(TypedDict):
    """What a pipeline run is to do; the argument of its Function."""

    recipe: str
    """The recipe as JSON."""
    run: str
    stages: list[str]
    ticket: str
    """Identifies the pipeline run across its successors."""
    hours: float
    """Most hours of the pipeline run itself, as they were printed before it began."""
    train_stop_s: float
    """Seconds granted to training for stopping, as they were counted in what was printed."""


def identify_request(order: Order) -> str:
    """Return the same for orders that do the same."""
    return hashlib.sha256(f"{order['stages']} {order['recipe']}".encode()).hexdigest()


def run_pipeline(
    order: Order, awaited: str, functions: Functions, pipeline: "modal.Function[Any, Any, Any]"
) -> Outcome:
    """Run the stages that are not finished, in order; `awaited` is empty except in a successor.

    The message of an `unfinished` outcome is the id of the successor's call.
    """
    guard_output()
    call_id = modal.current_function_call_id() or ""
    if awaited and not is_awaited(awaited):
        return failed(Locked(f"run {order['run']}: another call continues it"))
    if successor := find_awaited(key_of_successor(call_id)):  # started before this container was preempted
        return unfinished(successor.object_id)
    try:
        with lease(order["run"], order["ticket"], call_id, identify_request(order)) as held:
            outcome = _run_recorded(order, functions, WaitingTime(order["hours"], held.since))
            if outcome["state"] == "unfinished":
                successor = find_or_start(key_of_successor(call_id), lambda awaited: pipeline.spawn(order, awaited))
                held.handed_over = True
                return unfinished(successor.object_id)
    except TunelineError as error:
        outcome = failed(error)
    _notify(order, outcome)
    return outcome


def _run_recorded(order: Order, functions: Functions, waiting: WaitingTime) -> Outcome:
    """Call the stages as `_run_stages` does; if that fails, the reason is written down beside the run.

    Of a run that was cancelled nothing is: its lease was released first, and a stage may end before this call does.
    """
    folder = paths.run_folder(order["run"])
    with synchronized(reads=("runs",), writes=("runs",)):
        failures.forget_failure(folder)
        reopen_incomplete(folder, order["stages"])
    try:
        outcome = _run_stages(order, functions, waiting)
    except TunelineError as error:
        outcome = failed(error)
    if outcome["state"] == "failed" and holder(order["run"]):
        with synchronized(reads=("runs",), writes=("runs",)):
            failures.record_failure(folder, outcome["kind"], outcome["message"])
    return outcome


def _notify(order: Order, outcome: Outcome) -> None:
    run = order["run"]
    texts = {"": "is done", "GateFailed": f"is finished, and its gate failed: {outcome['message']}"}
    text = texts.get(outcome["kind"], f"failed: {outcome['message']}")
    notify(f"Tuneline run {run} ({order['stages'][-1]}) {text}", run=run, state=outcome["state"])


def _run_stages(order: Order, functions: Functions, waiting: WaitingTime) -> Outcome:
    """Call the stages until one does not finish.

    Raises:
        GateFailed: the evaluation is finished, and its gate did not let the model pass.
    """
    recipe, run, last = Recipe.model_validate_json(order["recipe"]), order["run"], order["stages"][-1]
    outcome = succeeded()
    for stage in order["stages"]:
        outcome = call_stage(stage, recipe, run, functions, waiting, order["train_stop_s"])
        if outcome["state"] != "finished":
            return outcome
    if last == "evaluate":
        _check_gate(run)
    if last == "preflight":
        _check_preflight(recipe, run)
    return outcome


def _check_gate(run: str) -> None:
    from tuneline.stages.evaluate.verdicts.gate import require_pass

    with synchronized(reads=("runs",), writes=()):
        require_pass(open_stage(paths.run_folder(run), "evaluate"))


def _check_preflight(recipe: Recipe, run: str) -> None:
    from tuneline.stages.plan.stop_time import measure_stop_time, refuse_too_slow
    from tuneline.stages.preflight import format_comparison, refuse_over_budget

    with synchronized(reads=("runs",), writes=()):
        echo(format_comparison(paths.run_folder(run)))
        refuse_too_slow(measure_stop_time(paths.run_folder(run)))
        refuse_over_budget(recipe, paths.run_folder(run))


def stages_of_verb(until: str, only: bool) -> list[str]:
    """Return the stages that a verb runs, in order: all up to `until`, or `until` alone."""
    return [until] if only else list(stages_up_to(until))
