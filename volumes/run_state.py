"""What is there of a run on Modal, as the user's machine sees it: what it has taken, and which stages are finished."""

from collections.abc import Iterator

import modal

from tuneline.configs.recipe import Recipe
from tuneline.core import paths
from tuneline.core.artifacts import MANIFEST
from tuneline.core.spending import FOLDER, Attempt, parse_attempt, sort_attempts
from tuneline.stages.plan.stage_bounds import STAGES, RunState
from tuneline.stages.plan.stop_time import plan_stop_time_of_run, refuse_too_slow
from tuneline.volumes.mounts import VOLUMES


def read_run_state(recipe: Recipe, run: str) -> RunState:
    """Return the state of a run on Modal; a run that does not exist has none.

    Raises:
        BadRecipe: training is to be done, and would take too long to stop.
    """
    attempts = sort_attempts(_read_remote_attempts(run))
    states = {stage: "finished" for stage in STAGES if _is_finished(run, stage, attempts)}
    stop_time = plan_stop_time_of_run(recipe, paths.run_folder(run))
    if "train" not in states:
        refuse_too_slow(stop_time)
    return RunState(states, attempts, stop_time.total)


def _read_remote_attempts(run: str) -> Iterator[Attempt]:
    for path in _list_paths(f"{run}/{FOLDER}"):
        if path.endswith(".json"):  # not what is being written
            yield parse_attempt(path, b"".join(VOLUMES["runs"].read_file(path)))


def _is_finished(run: str, stage: str, attempts: list[Attempt]) -> bool:
    """Return whether the stage's last attempt made its artifact, which is still there; a base is in another Volume."""
    last = next((attempt for attempt in reversed(attempts) if attempt.stage == stage), None)
    if last is None or last.state != "finished":
        return False
    return stage == "fetch" or f"{run}/{stage}/{MANIFEST}" in _list_paths(f"{run}/{stage}")


def _list_paths(folder: str) -> list[str]:
    try:
        return [entry.path for entry in VOLUMES["runs"].iterdir(folder, recursive=False)]
    except (FileNotFoundError, modal.exception.NotFoundError):
        return []
