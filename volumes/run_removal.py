"""Runs on Modal removed, in the one container that changes the policy: nothing is promoted meanwhile.

The rules are those of `endpoints.removable_runs`. That a run is in work is known by its lease and by the calls of its
stages: a stage goes on for a while after its pipeline run was lost or cancelled, and needs what it has written.
"""

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import modal

from tuneline.core import paths
from tuneline.core.errors import BadRequest, Locked, NotFound
from tuneline.endpoints.removable_runs import is_free, list_garbage_of_runs, list_of_run_to_remove
from tuneline.stages.plan.stage_bounds import STAGES
from tuneline.stages.runs.removal import Removable, remove, remove_path, remove_run
from tuneline.stages.runs.summary import is_run
from tuneline.volumes.leases import holder, lease
from tuneline.volumes.single_calls import find_awaited, has_ended

WHOLE = "run"
"""In place of kinds: the run itself."""


def _list_of_run(run: str, kinds: str) -> str:
    """Return what there is of these kinds (separated by commas) in a run, or the run itself, as JSON."""
    return _to_json(_list_items(_find(run), kinds))


def _remove_of_run(run: str, kinds: str, listed: str) -> str:
    """Remove what of these kinds is in `listed`, a JSON list of paths below the folder of runs; return what went."""
    folder = _find(run)
    with _held(run):
        items = _keep_listed(_list_items(folder, kinds), listed)
        remove_run(folder) if kinds == WHOLE else remove(folder, items)
    return _to_json(items)


def _list_garbage() -> str:
    return _to_json(_find_garbage())


def _remove_garbage(listed: str) -> str:
    """Remove what can still go of `listed`, and return it; a run that a call has taken up since is left."""
    items = _keep_listed(_find_garbage(), listed)
    removed = [item for item in items if item.kind == WHOLE]  # what an interrupted removal left
    for item in removed:
        remove_path(item.path)
    for run in sorted({_run_of(item) for item in items if item.kind != WHOLE}):
        of_run = [item for item in items if _run_of(item) == run]
        with contextlib.suppress(Locked), _held(run):
            remove(paths.runs() / run, of_run)
            removed += of_run
    return _to_json(removed)


VERBS: dict[str, Callable[..., str]] = {
    "runs removable": _list_of_run,
    "runs rm": _remove_of_run,
    "runs garbage": _list_garbage,
    "runs gc": _remove_garbage,
}
"""Verb → function from string arguments to JSON, as those of `endpoints.policy`; they write the Volume of runs."""


def _find(run: str) -> Path:
    folder = paths.runs() / paths.run_folder(run).name
    if not is_run(folder):
        raise NotFound(f"{run}: no such run on Modal; `tuneline runs ls` lists the runs")
    return folder


def _list_items(folder: Path, kinds: str) -> list[Removable]:
    if running := holder(folder.name):
        _refuse_in_work(folder.name, running["call"], own=modal.current_function_call_id())
    return list_of_run_to_remove(folder, () if kinds == WHOLE else kinds.split(","))


def _find_garbage() -> list[Removable]:
    return list_garbage_of_runs(lambda run: holder(run.name) is None and is_free(run))


@contextlib.contextmanager
def _held(run: str) -> Iterator[None]:
    """Hold the run's lease until the block ends, after a look whether a stage of it is still at work.

    Raises:
        Locked: a call works on the run.
    """
    own = modal.current_function_call_id() or ""
    with lease(run, uuid.uuid4().hex, own, "remove"):
        for stage in STAGES:
            if (call := find_awaited(f"{run}/{stage}")) and not has_ended(call):
                _refuse_in_work(run, call.object_id)
        yield


def _refuse_in_work(run: str, call: str, own: str | None = None) -> None:
    if call != own:
        raise Locked(f"{run} is being written by {call}; `tuneline runs cancel {run}` stops it")


def _keep_listed(items: Sequence[Removable], listed: str) -> list[Removable]:
    names = json.loads(listed)
    if not isinstance(names, list):
        raise BadRequest(f"{listed[:80]}: a list of paths")
    return [item for item in items if _name(item) in names]


def _name(item: Removable) -> str:
    return str(item.path.relative_to(paths.runs()))


def _run_of(item: Removable) -> str:
    return item.path.relative_to(paths.runs()).parts[0]


def _to_json(items: Sequence[Removable]) -> str:
    return json.dumps([item.as_json() | {"path": _name(item)} for item in items])
