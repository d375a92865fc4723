"""What `modal run app.py::VERB` does on the user's machine: check, tell the cost, upload, start the walk, follow it."""

import io
import sys
import uuid
from pathlib import Path
from typing import Any

import modal

from tuneline.configs.recipe import Recipe
from tuneline.core.errors import BadRecipe, GateFailed, StageFailed, TunelineError
from tuneline.volumes import ENVIRONMENT, MOUNTS, VOLUMES
from tuneline.volumes.call_errors import why
from tuneline.volumes.leases import holder
from tuneline.volumes.pipeline_run import order, secrets
from tuneline.volumes.stage_calls import Outcome

DEMO = "configs/recipes/demo.yaml"


def enter(
    app: modal.App,
    walk: "modal.Function[Any, Any, Any]",
    until: str,
    recipe_file: str,
    run: str,
    *,
    only: bool,
) -> None:
    """Make a run up to a stage. Exits as `tuneline` does: 0 done, 1 failed, 2 bad input, 3 the gate said no."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # into a file or a pipe too, the cost is told before it arises
    try:
        _enter(app, walk, until, Path(recipe_file), run, only)
    except TunelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _enter(app: modal.App, walk: "modal.Function[Any, Any, Any]", until: str, file: Path, run: str, only: bool) -> None:
    from tuneline.configs.recipe_file import load_recipe
    from tuneline.core import errors, paths

    recipe = load_recipe(file)
    run = paths.run_folder(run or recipe.name).name
    stages = order(until, only)
    _print_plan(recipe, run, stages)
    asked = secrets()
    if running := holder(run):
        print(f"{run} is being made already, by {running['call']}: following it")
        call: Any = modal.FunctionCall.from_id(running["call"])
    else:
        recipe = _uploaded(recipe)
        walker = walk.with_options(env=ENVIRONMENT, secrets=asked)  # `secrets` replaces the decorator's `env`
        call = walker.spawn(recipe.model_dump_json(), run, stages, uuid.uuid4().hex)
        print(f"started as {call.object_id}; with `modal run --detach` it goes on when this machine sleeps")
    outcome = _ended(call)
    if outcome["state"] == "finished" or outcome["kind"] == GateFailed.__name__:
        folder = stages[-1] if stages[-1] != "fetch" else ""
        print(f"\n{run} is done up to {stages[-1]}. To get it:\n  modal volume get tuneline-runs {run}/{folder} .")
    if outcome["state"] == "failed":
        raise errors.from_record(outcome)


def _ended(call: Any) -> Outcome:
    """How the walk ended, whichever call walked last.

    Raises:
        StageFailed: it ended without saying so: cancelled, lost, or its container did not start.
    """
    try:
        outcome: Outcome = call.get()
        while outcome["state"] == "unfinished":
            outcome = modal.FunctionCall.from_id(outcome["message"]).get()
    except Exception as error:
        raise StageFailed(why("the walk", error)) from None
    return outcome


def _print_plan(recipe: Recipe, run: str, stages: list[str]) -> None:
    """What will run, where, how long at most, for how much at most.

    Raises:
        BadRecipe: it could cost more than the recipe allows, or the engine could not load what is trained.
    """
    from tuneline.stages.plan.serving import refuse_unservable
    from tuneline.stages.plan.stage_bounds import bounds, refuse_too_dear, table

    line = bounds(recipe, stages)
    print(f"run {run}: {', '.join(stages)}\n\n{table(line)}\n")
    refuse_too_dear(recipe, line)
    refuse_unservable(recipe)


def _uploaded(recipe: Recipe) -> Recipe:
    """The recipe with each of its files in the data Volume, under the hash of its content; what is there is kept."""
    from tuneline.configs.file_hashes import hash_content, included_files
    from tuneline.configs.recipe_file import replace_paths
    from tuneline.core.paths import find

    if recipe.base != "tiny" and Path(recipe.base).exists():
        raise BadRecipe(f"base: {recipe.base}: a folder of this machine; push it to the hub, name it and its revision")
    data = VOLUMES["data"]

    def moved(path: Path) -> Path:
        local = find(path)
        folder = hash_content(local)[:16]
        if not _exists(data, f"{folder}/{local.name}"):
            print(f"uploading {path}")
            with data.batch_upload() as batch:
                (batch.put_directory if local.is_dir() else batch.put_file)(local, f"/{folder}/{local.name}")
                for file in included_files(local):
                    batch.put_file(file, f"/{folder}/{file.relative_to(local.parent)}")
        return Path(MOUNTS["data"]) / folder / local.name

    return replace_paths(recipe, moved)


def _exists(volume: modal.Volume, path: str) -> bool:
    folder, _, name = path.rpartition("/")
    try:
        return any(Path(entry.path).name == name for entry in volume.iterdir(f"/{folder}"))
    except (FileNotFoundError, modal.exception.NotFoundError):
        return False
