"""What `modal run app.py::VERB` does on the user's machine: check, print the cost, upload, start the run, wait."""

import sys
import uuid
from pathlib import Path
from typing import Any

import modal

from tuneline.configs.recipe import Recipe
from tuneline.core.errors import BadRecipe, GateFailed, StageFailed, TunelineError
from tuneline.core.terminal import echo
from tuneline.volumes.call_errors import explain
from tuneline.volumes.call_outcomes import Outcome
from tuneline.volumes.cloud_secrets import require_secrets
from tuneline.volumes.leases import holder
from tuneline.volumes.mounts import ENVIRONMENT, MOUNTS, VOLUMES
from tuneline.volumes.pipeline_run import stages_of_verb

DEMO = "configs/recipes/demo.yaml"


def run_verb(
    pipeline: "modal.Function[Any, Any, Any]",
    until: str,
    recipe_file: str,
    run: str,
    *,
    only: bool,
) -> None:
    """Run the pipeline up to a stage. Exits as `tuneline` does: 0 done, 1 failed, 2 bad input, 3 the gate said no."""
    try:
        _run_verb(pipeline, until, Path(recipe_file), run, only)
    except TunelineError as error:
        echo(f"error: {error}", error=True)
        sys.exit(error.exit_code)


def _run_verb(pipeline: "modal.Function[Any, Any, Any]", until: str, file: Path, run: str, only: bool) -> None:
    from tuneline.configs.recipe_file import load_recipe
    from tuneline.core import errors, paths

    recipe = load_recipe(file)
    run = paths.run_folder(run or recipe.name).name
    stages = stages_of_verb(until, only)
    _print_plan(recipe, run, stages)
    outcome = _wait_for(_follow_or_start(pipeline, recipe, run, stages))
    if outcome["state"] == "finished" or outcome["kind"] == GateFailed.__name__:
        folder = stages[-1] if stages[-1] != "fetch" else ""
        echo(f"\n{run} is done up to {stages[-1]}. To get it:\n  modal volume get tuneline-runs {run}/{folder} .")
    if outcome["state"] == "failed":
        raise errors.from_record(outcome)


def _follow_or_start(pipeline: "modal.Function[Any, Any, Any]", recipe: Recipe, run: str, stages: list[str]) -> Any:
    """Return the call that executes this run: the one that is running, or a new one."""
    secrets = require_secrets()
    if running := holder(run):
        echo(f"{run} is being made already, by {running['call']}: following it")
        return modal.FunctionCall.from_id(running["call"])
    recipe = _upload_files(recipe)
    function = pipeline.with_options(env=ENVIRONMENT, secrets=secrets)  # `secrets` replaces the decorator's `env`
    call = function.spawn(recipe.to_json(), run, stages, uuid.uuid4().hex)
    echo(f"started as {call.object_id}; with `modal run --detach` it goes on when this machine sleeps")
    return call


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
        raise StageFailed(explain("the walk", error)) from None
    return outcome


def _print_plan(recipe: Recipe, run: str, stages: list[str]) -> None:
    """Print what will run, where, and for how long and at what cost at most.

    Raises:
        BadRecipe: it could cost more than the recipe allows, or the engine could not load what is trained.
    """
    from tuneline.stages.plan.serving import refuse_unservable
    from tuneline.stages.plan.stage_bounds import bound_stages, format_bounds, refuse_too_expensive

    stage_bounds = bound_stages(recipe, stages)
    echo(f"run {run}: {', '.join(stages)}\n\n{format_bounds(stage_bounds)}\n")
    refuse_too_expensive(recipe, stage_bounds)
    refuse_unservable(recipe)


def _upload_files(recipe: Recipe) -> Recipe:
    """Return the recipe with each of its files in the data Volume, under its content hash; existing files are kept."""
    from tuneline.configs.file_hashes import hash_content, included_files
    from tuneline.configs.recipe_file import replace_paths
    from tuneline.core.paths import resolve

    if recipe.base != "tiny" and Path(recipe.base).exists():
        raise BadRecipe(f"base: {recipe.base}: a folder of this machine; push it to the hub, name it and its revision")
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
