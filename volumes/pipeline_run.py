"""The walk over a run's stages, on Modal: a small Function that calls the stages' Functions, each on its hardware.

It may be preempted, or reach its own 24 hours: which call it waits for is written down, so that its successor waits on.
"""

import time
from collections.abc import Mapping
from typing import Any

import modal

from tuneline.configs.cloud import SECRETS, cloud
from tuneline.configs.compute import SPARE_S, Container
from tuneline.configs.recipe import Recipe
from tuneline.core import paths
from tuneline.core.artifacts import open_artifact
from tuneline.core.errors import BadRecipe, StageFailed, TunelineError
from tuneline.core.notification import notify
from tuneline.stages.line import finished, up_to
from tuneline.volumes import ENVIRONMENT
from tuneline.volumes.call_errors import AGAIN, why
from tuneline.volumes.leases import LEASES, lease
from tuneline.volumes.stage_calls import CALL_HOURS, Outcome, working

Functions = Mapping[tuple[str, bool], "modal.Function[Any, Any, Any]"]
"""(stage, on a GPU) → the Function on that hardware."""


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
    told = {"": "is done", "GateFailed": f"is done, and its gate says no: {outcome['message']}"}
    text = told.get(outcome["kind"], f"failed: {outcome['message']}")
    notify(f"Tuneline run {run} ({stages[-1]}) {text}", run=run, state=outcome["state"])
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
            # What makes convert.folders is in that image; it has a GPU only if one is asked for.
            on_gpu = bool(asked.gpu or (stage == "convert" and recipe.convert.folders))
            function = sized(functions[stage, on_gpu], asked, left)
            call = function.spawn(stage, recipe.model_dump_json(), run, left)
            LEASES.put(key, call.object_id)
        try:
            outcome: Outcome = call.get(timeout=max(1.0, 3600 * CALL_HOURS - (time.monotonic() - began)))
        except modal.exception.OutputExpiredError:
            LEASES.pop(key, None)
            continue
        except Exception as error:
            if type(error) is TimeoutError and time.monotonic() - began >= 3600 * CALL_HOURS - 1:
                return {"state": "unfinished", "kind": "", "message": ""}  # our own time is over; the call goes on
            LEASES.pop(key, None)
            return _failed(why(stage, error, asked))
        LEASES.pop(key, None)
        if outcome["state"] != "unfinished":
            return outcome
        left -= CALL_HOURS
        if left > 0:
            print(f"{stage:<9} its call's time is over; a successor goes on from the checkpoint", flush=True)
    hours = f"raise compute.{stage}.hours, now {asked.hours:g}"
    return _failed(f"{stage} was stopped when its time was over; {hours}, and {AGAIN}")


def _heed_gate(run: str) -> None:
    from tuneline.stages.evaluate.verdicts.gate import leave_unless_passed

    with working(reads=("runs",), writes=()):
        leave_unless_passed(open_artifact(paths.run_folder(run) / "evaluate"))


def _heed_preflight(recipe: Recipe, run: str) -> None:
    from tuneline.stages.preflight import refuse_measured, table

    with working(reads=("runs",), writes=()):
        print(table(paths.run_folder(run)), flush=True)
        refuse_measured(recipe, paths.run_folder(run))


def sized(function: "modal.Function[Any, Any, Any]", asked: Container, hours: float) -> "modal.Function[Any, Any, Any]":
    """The Function with the recipe's hardware, time, retries, and the secrets that `configs/cloud.yaml` turns on.

    Cores and memory are limits too: beyond a request alone Modal lets a container grow, and asks for what it took
    (modal.com/docs/guide/resources), so that the cost told before would be no bound.
    """
    memory_mib = int(1024 * asked.memory_gib)
    return function.with_options(
        gpu=asked.gpu,
        cpu=(asked.cores, asked.cores),
        memory=(memory_mib, memory_mib),
        timeout=int(3600 * min(hours, CALL_HOURS) + SPARE_S),
        retries=modal.Retries(max_retries=asked.retries, initial_delay=0.0),
        env=ENVIRONMENT,  # `secrets` replaces the decorator's
        secrets=secrets(),
    )


def secrets() -> list[modal.Secret]:
    """Those that `configs/cloud.yaml` turns on.

    Raises:
        BadRecipe: one is not there, or lacks its key.
    """
    return [_secret(f"tuneline-{name}", SECRETS[name]) for name in cloud().secrets]


def _secret(name: str, key: str) -> modal.Secret:
    secret = modal.Secret.from_name(name, required_keys=[key])
    try:
        secret.hydrate()
    except modal.exception.ConnectionError:
        raise
    except modal.exception.Error as error:
        raise BadRecipe(
            f"configs/cloud.yaml: secrets: {error}. `modal secret create --force {name} {key}=…` makes it; "
            f"or take {name.removeprefix('tuneline-')} off the list"
        ) from None
    return secret


def scheduled(judge: "modal.Function[Any, Any, Any]") -> None:
    """Evaluate everything promoted, with the secrets that `configs/cloud.yaml` turns on.

    Raises:
        BadRecipe: one of those is not there. StageFailed: it ran into `schedule.max_cost_usd`, or was lost.
    """
    try:
        judge.with_options(env=ENVIRONMENT, secrets=secrets()).remote()
    except modal.exception.FunctionTimeoutError:
        most = f"raise schedule.max_cost_usd, now {cloud().schedule.max_cost_usd:g}, in configs/cloud.yaml"
        raise StageFailed(f"the scheduled evaluation was stopped before it could cost more; {most}") from None
    except modal.exception.Error as error:
        raise StageFailed(why("the scheduled evaluation", error)) from None


def order(until: str, only: bool) -> list[str]:
    """The stages a verb walks."""
    return [until] if only else list(up_to(until))


def _waiting(key: str) -> "modal.FunctionCall[Any] | None":
    """The call that an earlier walk of this run made and nobody has heard the end of."""
    name = LEASES.get(key)
    return modal.FunctionCall.from_id(name) if name else None


def _failed(message: str) -> Outcome:
    return {"state": "failed", "kind": "StageFailed", "message": message}
