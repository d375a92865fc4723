"""The walk over a run's stages, on Modal: a small Function that calls the stages' Functions, each on its hardware.

It may be preempted, or reach its own 24 hours: which call it waits for is written down, so that its successor waits on.
"""

import time
from collections.abc import Mapping
from typing import Any

import modal

from configs.cloud import SECRETS, cloud
from configs.recipe import Container, Recipe
from stages import paths
from stages.artifact import open_artifact
from stages.errors import TunelineError
from stages.line import finished, up_to
from stages.notify import notify
from volumes import ENVIRONMENT
from volumes.lease import LEASES, lease
from volumes.working import CALL_HOURS, Outcome, working

Functions = Mapping[tuple[str, bool], "modal.Function[Any, Any, Any]"]
"""(stage, on a GPU) → the Function on that hardware."""

SPARE_S = 60.0
"""Between a stage being told to stop and its call being killed: training saves a checkpoint in it."""


def walk(
    recipe_json: str,
    run: str,
    stages: list[str],
    ticket: str,
    functions: Functions,
    successor: "modal.Function[Any, Any, Any]",
) -> Outcome:
    """Make what is missing of `stages`, in order. `unfinished` carries the id of the call that walks on."""
    recipe, began = Recipe.model_validate_json(recipe_json), time.monotonic()
    outcome: Outcome = {"state": "finished", "kind": "", "message": ""}
    try:
        with lease(run, ticket, modal.current_function_call_id() or ""):
            for stage in stages:
                outcome = _stage(stage, recipe, run, functions, began)
                if outcome["state"] != "finished":
                    break
            if outcome["state"] == "finished" and stages[-1] == "evaluate":
                _heed_gate(run)
            if outcome["state"] == "finished" and stages[-1] == "preflight":
                _heed_preflight(recipe, run)
    except TunelineError as error:
        outcome = {"state": "failed", "kind": type(error).__name__, "message": str(error)}
    if outcome["state"] == "unfinished":
        return outcome | {"message": successor.spawn(recipe_json, run, stages, ticket).object_id}
    told = "is done" if outcome["state"] == "finished" else f"failed: {outcome['message']}"
    notify(f"Tuneline run {run} ({stages[-1]}) {told}", run=run, state=outcome["state"])
    return outcome


def _stage(stage: str, recipe: Recipe, run: str, functions: Functions, began: float) -> Outcome:
    with working(reads=("data", "models", "runs"), writes=()):
        if finished(stage, recipe, paths.run_folder(run)):
            print(f"{stage:<9} finished already", flush=True)
            return {"state": "finished", "kind": "", "message": ""}
    asked: Container = getattr(recipe.compute, stage)
    left, key = asked.hours, f"{run}/{stage}"
    while left > 0:
        call = _waiting(key)
        if call is None:
            function = sized(functions[stage, bool(asked.gpu)], asked, left)
            call = function.spawn(stage, recipe.model_dump_json(), run, left)
            LEASES.put(key, call.object_id)
        try:
            outcome: Outcome = call.get(timeout=max(1.0, 3600 * CALL_HOURS - (time.monotonic() - began)))
        except modal.exception.OutputExpiredError:
            LEASES.pop(key, None)
            continue
        except (modal.exception.FunctionTimeoutError, TimeoutError) as error:
            if isinstance(error, modal.exception.FunctionTimeoutError):
                LEASES.pop(key, None)
                return _failed(f"{stage} took longer than {left:g} h and was stopped; raise compute.{stage}.hours")
            return {"state": "unfinished", "kind": "", "message": ""}  # our own time is over; the call goes on
        except Exception as error:  # whatever a lost container leaves: out of memory, an image that cannot import
            LEASES.pop(key, None)
            return _failed(
                f"{stage} was lost: {type(error).__name__}: {error}. If it ran out of memory, raise "
                f"compute.{stage}.memory_gib ({asked.memory_gib:g} now); run the same command again: it goes on"
            )
        LEASES.pop(key, None)
        if outcome["state"] != "unfinished":
            return outcome
        left -= CALL_HOURS
        print(f"{stage:<9} its call's time is over; a successor goes on from the checkpoint", flush=True)
    return _failed(f"{stage} is not finished after {asked.hours:g} h; raise compute.{stage}.hours; nothing is lost")


def _heed_gate(run: str) -> None:
    from stages.evaluate.gate import leave_unless_passed

    with working(reads=("runs",), writes=()):
        leave_unless_passed(open_artifact(paths.run_folder(run) / "evaluate"))


def _heed_preflight(recipe: Recipe, run: str) -> None:
    from stages.preflight import refuse_measured, table

    with working(reads=("runs",), writes=()):
        print(table(paths.run_folder(run)), flush=True)
        refuse_measured(recipe, paths.run_folder(run))


def sized(function: "modal.Function[Any, Any, Any]", asked: Container, hours: float) -> "modal.Function[Any, Any, Any]":
    """The Function with the recipe's hardware, time, retries, and the secrets that `configs/cloud.yaml` turns on."""
    return function.with_options(
        gpu=asked.gpu,
        cpu=asked.cores,
        memory=int(1024 * asked.memory_gib),
        timeout=int(3600 * min(hours, CALL_HOURS) + SPARE_S),
        retries=modal.Retries(max_retries=asked.retries, initial_delay=0.0),
        env=ENVIRONMENT,  # `secrets` replaces the decorator's
        secrets=secrets(),
    )


def secrets() -> list[modal.Secret]:
    """Those turned on, each with the key it must have."""
    return [modal.Secret.from_name(f"tuneline-{name}", required_keys=[SECRETS[name]]) for name in cloud().secrets]


def order(until: str, only: bool) -> list[str]:
    """The stages a verb walks."""
    return [until] if only else list(up_to(until))


def _waiting(key: str) -> "modal.FunctionCall[Any] | None":
    """The call that an earlier walk of this run made and nobody has heard the end of."""
    name = LEASES.get(key)
    return modal.FunctionCall.from_id(name) if name else None


def _failed(message: str) -> Outcome:
    return {"state": "failed", "kind": "StageFailed", "message": message}
