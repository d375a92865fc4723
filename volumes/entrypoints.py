"""What `modal run app.py::VERB` does on the user's machine: check, print the cost, upload, start the run, wait."""

import shlex
import sys
import uuid
from pathlib import Path
from typing import Any, TypedDict

import modal

from tuneline.configs.compute import WAIT_HOURS
from tuneline.configs.recipe import Recipe
from tuneline.core.errors import BadRecipe, BadRequest, GateFailed, StageFailed, TunelineError
from tuneline.core.terminal import echo
from tuneline.volumes.call_errors import explain
from tuneline.volumes.call_outcomes import Outcome
from tuneline.volumes.cloud_secrets import require_secrets
from tuneline.volumes.leases import holder, release
from tuneline.volumes.mounts import ENVIRONMENT, MOUNTS, VOLUMES
from tuneline.volumes.pipeline_run import Order, identify_request, stages_of_verb
from tuneline.volumes.single_calls import has_ended

DEMO = "configs/recipes/demo.yaml"


class RunLimits(TypedDict):
    """What was printed before a run, and is kept by it: see `Order`."""

    hours: float
    train_stop_s: float


def run_verb(
    pipeline: "modal.Function[Any, Any, Any]",
    until: str,
    recipe_file: str,
    run: str,
    *,
    only: bool,
    settings: str = "",
) -> None:
    """Run the pipeline up to a stage, with settings (`KEY=VALUE`, separated by spaces) on top of the recipe.

    Exits as `tuneline` does: 0 done, 1 failed, 2 bad input, 3 the gate said no.
    """
    try:
        _run_verb(pipeline, until, Path(recipe_file), run, only, settings)
    except TunelineError as error:
        echo(f"error: {error}", error=True)
        sys.exit(error.exit_code)


def _run_verb(
    pipeline: "modal.Function[Any, Any, Any]", until: str, file: Path, run: str, only: bool, settings: str
) -> None:
    from tuneline.configs.recipe_file import load_recipe
    from tuneline.core import errors, paths

    recipe = load_recipe(file, split_settings(settings))
    run = paths.run_folder(run or recipe.name).name
    stages = stages_of_verb(until, only)
    limits = _print_plan(recipe, run, stages)
    outcome = _run_to_end(pipeline, recipe, run, stages, limits)
    if outcome["state"] == "finished" or outcome["kind"] == GateFailed.__name__:
        echo(f"\n{run} is finished up to {stages[-1]}. To download it:\n  {describe_download(run)}")
    if outcome["state"] == "failed":
        raise errors.from_record(outcome)


def describe_download(run: str) -> str:
    """Return the command that brings a whole run here, to where `tuneline` looks for it.

    `modal volume get` puts a folder into one that exists, and fails where there is none.
    """
    from tuneline.core import paths

    runs = paths.runs()
    folder = shlex.quote(str(runs.relative_to(Path.cwd()) if runs.is_relative_to(Path.cwd()) else runs))
    return f"mkdir -p {folder} && modal volume get tuneline-runs {run} {folder}"


def split_settings(settings: str) -> list[str]:
    """Return the settings in the text of `--set`, which are separated by spaces."""
    try:
        return shlex.split(settings)
    except ValueError as error:
        raise BadRequest(
            f"--set {settings}: {error}; settings are separated by spaces: 'train.rank=8 seed=1'"
        ) from None


def run_sweep(pipeline: "modal.Function[Any, Any, Any]", until: str, recipe_file: str, run: str, settings: str) -> None:
    """Run the pipelines of a sweep side by side, after printing what they cost together; exits as `run_verb` does."""
    try:
        failures = _run_sweep(pipeline, until, Path(recipe_file), run, split_settings(settings))
    except TunelineError as error:
        echo(f"error: {error}", error=True)
        sys.exit(error.exit_code)
    for name, message in failures.items():
        echo(f"error: {name}: {message}", error=True)
    sys.exit(int(bool(failures)))


def _run_sweep(
    pipeline: "modal.Function[Any, Any, Any]", until: str, file: Path, name: str, settings: list[str]
) -> dict[str, str]:
    """Return the errors of the runs that failed, by run; a gate that says no is none."""
    from tuneline.configs.sweep import expand_sweep

    runs, stages = expand_sweep(file, settings, name or None), stages_of_verb(until, only=False)
    limits = [_print_plan(sweep_run.recipe, sweep_run.name, stages) for sweep_run in runs]
    echo(f"{len(runs)} runs in parallel; their total cost is at most the sum of the tables above")
    calls = {}
    for sweep_run, run_limits in zip(runs, limits, strict=True):
        if running := _find_running(sweep_run.name):
            echo(f"{sweep_run.name} is already running as {running['call']}; following it")
            calls[sweep_run.name] = modal.FunctionCall.from_id(running["call"])
        else:
            order = _write_order(sweep_run.recipe, sweep_run.name, stages, run_limits)
            calls[sweep_run.name] = _start(pipeline, order)
    outcomes = {run: _wait_for(call) for run, call in calls.items()}
    echo(
        f"\nTo compare them, download each with `{describe_download('RUN')}`; "
        "`tuneline sweep` with the same settings then prints the table"
    )
    return {
        run: outcome["message"]
        for run, outcome in outcomes.items()
        if outcome["state"] == "failed" and outcome["kind"] != GateFailed.__name__
    }


def _write_order(recipe: Recipe, run: str, stages: list[str], limits: RunLimits) -> Order:
    return {
        "recipe": _upload_files(recipe).to_json(),
        "run": run,
        "stages": stages,
        "ticket": uuid.uuid4().hex,
        **limits,
    }


def _start(pipeline: "modal.Function[Any, Any, Any]", order: Order) -> Any:
    """Return the call of a pipeline run that has been started."""
    # `secrets` replaces the decorator's `env`
    call = pipeline.with_options(env=ENVIRONMENT, secrets=require_secrets()).spawn(order)
    echo(f"started as {call.object_id}; with `modal run --detach` it continues when this machine is off")
    return call


def _run_to_end(
    pipeline: "modal.Function[Any, Any, Any]", recipe: Recipe, run: str, stages: list[str], limits: RunLimits
) -> Outcome:
    """Return how these stages ended: made by a pipeline run of their own, after the one that is under way, if any."""
    require_secrets()
    order = _write_order(recipe, run, stages, limits)
    while running := _find_running(run):
        echo(f"{run} is already running as {running['call']}; following it")
        outcome = _wait_for(modal.FunctionCall.from_id(running["call"]))
        does_the_same = running.get("request") == identify_request(order)
        if does_the_same or outcome["kind"] not in ("", GateFailed.__name__):
            return outcome
        echo(f"finished; continuing with {', '.join(stages)}")
    return _wait_for(_start(pipeline, order))


def _find_running(run: str) -> dict[str, Any] | None:
    """Return who makes a run; a lease whose call has ended, because its app was stopped, is released."""
    running = holder(run)
    if running and has_ended(modal.FunctionCall.from_id(running["call"])):
        release(run)
        return None
    return running


def _wait_for(call: Any) -> Outcome:
    """Return how the pipeline run ended, after all of its successors.

    Raises:
        StageFailed: it ended without an outcome: cancelled, lost, or its container did not start.
    """
    try:
        outcome: Outcome = call.get()
        while outcome["state"] == "unfinished":
            outcome = modal.FunctionCall.from_id(outcome["message"]).get()
    except Exception as error:
        raise StageFailed(explain("the pipeline run", error)) from None
    return outcome


def refuse_known_failures(recipe: Recipe) -> None:
    """Raise for what can be known here: a base that cannot be fetched there, an engine that could not load the result.

    Raises:
        BadRecipe: the base is a folder of this machine or lacks its commit, or a GPU would do nothing.
        NotFound: there is no such base. BadRequest: its hub wants a token, and `configs/cloud.yaml` has no secret.
    """
    from tuneline.configs.cloud import cloud
    from tuneline.stages.early_checks import refuse_unaskable_suites
    from tuneline.stages.fetch.bases import locate_base
    from tuneline.stages.fetch.hub_source import HubSource
    from tuneline.stages.fetch.reachability import refuse_unreachable
    from tuneline.stages.plan.idle_gpus import refuse_idle_gpus
    from tuneline.stages.plan.serving import refuse_unservable

    if recipe.base != "tiny" and Path(recipe.base).exists():
        raise BadRecipe(
            f"base: {recipe.base}: a folder on this machine; upload it to the hub and give its id and revision"
        )
    refuse_unservable(recipe)
    refuse_unaskable_suites(recipe)
    refuse_idle_gpus(recipe)
    source = locate_base(recipe)
    if isinstance(source, HubSource):
        refuse_unreachable(source, has_token="huggingface" in cloud().secrets)


def _print_plan(recipe: Recipe, run: str, stages: list[str]) -> RunLimits:
    """Print what will run, where, and for how long and at what cost at most.

    Raises:
        BadRecipe: it could cost more than the recipe allows, or training could not stop in time.
    """
    from tuneline.core import paths
    from tuneline.core.spending import sum_usd
    from tuneline.stages.early_checks import find_shortcomings
    from tuneline.stages.plan.stage_bounds import PIPELINE, bound_stages, format_bounds, refuse_too_expensive
    from tuneline.stages.plan.training import plan_steps
    from tuneline.volumes.run_state import read_run_state

    state = read_run_state(recipe, run)
    stage_bounds, spent_usd = bound_stages(recipe, stages, state), sum_usd(state.attempts)
    echo(f"run {run}: {', '.join(stages)}\n\n{format_bounds(stage_bounds, spent_usd)}\n")
    refuse_too_expensive(recipe, stage_bounds, spent_usd)
    if "train" in stages and "train" not in state.states:
        steps = plan_steps(recipe, paths.run_folder(run))
        for shortcoming in find_shortcomings(recipe, steps):
            echo(f"warning: {shortcoming}", error=True)
    hours = next((bound.hours_at_most for bound in stage_bounds if bound.stage == PIPELINE), WAIT_HOURS)
    return {"hours": hours, "train_stop_s": state.train_stop_s}


def _upload_files(recipe: Recipe) -> Recipe:
    """Return the recipe with each of its files in the data Volume, under its content hash; existing files are kept."""
    from tuneline.configs.file_hashes import hash_content, included_files
    from tuneline.configs.recipe_file import replace_paths
    from tuneline.core.paths import resolve

    data = VOLUMES["data"]

    def upload(path: Path) -> Path:
        local = resolve(path)
        folder = hash_content(local)[:16]
        if not _exists(data, f"{folder}/{local.name}"):
            echo(f"uploading {path}")
            with data.batch_upload() as batch:
                (batch.put_directory if local.is_dir() else batch.put_file)(local, f"/{folder}/{local.name}")
                for file in included_files(local):
                    batch.put_file(file, f"/{folder}/{file.relative_to(local.parent)}")
        return Path(MOUNTS["data"]) / folder / local.name

    return replace_paths(recipe, upload)


def _exists(volume: modal.Volume, path: str) -> bool:
    folder, _, name = path.rpartition("/")
    try:
        return any(Path(entry.path).name == name for entry in volume.iterdir(f"/{folder}"))
    except (FileNotFoundError, modal.exception.NotFoundError):
        return False
