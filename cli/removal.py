"""What `tuneline runs rm` and `gc` list and remove, on this machine or on Modal."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tuneline.cli.run_folders import find_run

if TYPE_CHECKING:
    from tuneline.stages.runs.removal import Removable


def list_to_remove(run: str, kinds: Sequence[str], *, on_modal: bool) -> "list[Removable]":
    """Return what there is of these kinds in a run, or the run itself if there are no kinds.

    Raises:
        NotFound: there is no such run. Locked: it is in work. BadRequest: it is in use.
    """
    if on_modal:
        from tuneline.volumes.remote_removal import list_removable_on_modal

        return list_removable_on_modal(run, kinds)
    from tuneline.endpoints.removable_runs import list_of_run_to_remove

    return list_of_run_to_remove(find_run(run), kinds)


def remove_listed(run: str, kinds: Sequence[str], items: "Sequence[Removable]", *, on_modal: bool) -> None:
    """Remove what `list_to_remove` returned.

    Raises:
        Locked: somebody works on the run.
    """
    if on_modal:
        from tuneline.volumes.remote_removal import remove_on_modal

        return remove_on_modal(run, kinds, items)
    from tuneline.stages.runs.removal import remove, remove_run

    return remove(find_run(run), items) if kinds else remove_run(find_run(run))


def list_all_garbage(*, on_modal: bool) -> "list[Removable]":
    """Return what could go of all runs, each with the reason."""
    if on_modal:
        from tuneline.volumes.remote_removal import list_garbage_on_modal

        return list_garbage_on_modal()
    from tuneline.endpoints.removable_runs import list_garbage

    return list_garbage()


def remove_garbage(items: "Sequence[Removable]", *, on_modal: bool) -> "list[Removable]":
    """Remove what `list_all_garbage` returned, and return what was left, since somebody works on its run by now.

    Raises:
        Locked: somebody works on a run of this machine.
    """
    if on_modal:
        from tuneline.volumes.remote_removal import remove_garbage_on_modal

        return remove_garbage_on_modal(items)
    from tuneline.core import paths
    from tuneline.stages.runs.removal import remove, remove_path

    for run in sorted({run for item in items if (run := _run_of(item.path, paths.runs()))}):
        remove(run, [item for item in items if item.path.is_relative_to(run)])
    for item in items:
        if _run_of(item.path, paths.runs()) is None:
            remove_path(item.path)
    return []


def _run_of(path: Path, runs: Path) -> Path | None:
    """Return the folder of the run that a path is in, or None."""
    parts = path.relative_to(runs).parts if path.is_relative_to(runs) else ()
    return runs / parts[0] if parts and not parts[0].startswith(".") else None
