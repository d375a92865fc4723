"""Runs changed: stop, resume, remove, free space."""

from pathlib import Path
from typing import Annotated

import typer

from tuneline.cli.commands.pipeline import check_recipe, print_results, run_stages
from tuneline.cli.consoles import console
from tuneline.cli.options import AsJson, ExistingRun, OnModal, Settings
from tuneline.cli.run_folders import find_run

app = typer.Typer()
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command()
def cancel(run: ExistingRun, on_modal: OnModal = False) -> None:
    """Stop a run; `resume` continues it from its last checkpoint."""
    if on_modal:
        from tuneline.volumes.remote import cancel_run

        stopped = f"{cancel_run(run)} is cancelled"
    else:
        from tuneline.core.locks import stop_holder

        stopped = f"{stop_holder(find_run(run))} was asked to save and stop"
    modal = " --modal" if on_modal else ""
    console.print(f"{run}: {stopped}; `tuneline runs resume {run}{modal}` continues", soft_wrap=True)


@app.command()
def resume(
    run: ExistingRun,
    until: Annotated[
        str | None,
        typer.Option("--until", help="Last stage to run. Default: as the run was started here, else evaluate."),
    ] = None,
    settings: Settings = None,
    on_modal: OnModal = False,
) -> None:
    """Continue a run by the recipe that is kept in it: what is finished stays."""
    if on_modal:
        from tuneline.volumes.remote_resume import resume_run

        raise typer.Exit(resume_run(run, until or "evaluate", settings or ()))
    from tuneline.core.locks import read_last_purpose
    from tuneline.stages.line import ORDER
    from tuneline.stages.runs.kept_recipe import load_kept_recipe

    folder = find_run(run)
    recipe = load_kept_recipe(folder, settings or ())
    check_recipe(recipe)
    last = until or read_last_purpose(folder)
    last = last if until or last in ORDER else "evaluate"
    run_stages(recipe, run, last)
    if last == "evaluate":
        print_results(folder, folder / "recipe.json")


@app.command()
def rm(
    run: ExistingRun,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Unfinished work; a stopped stage restarts.")
    ] = False,
    merged: Annotated[bool, typer.Option("--merged", help="The merged checkpoint.")] = False,
    quantizations: Annotated[bool, typer.Option("--quantizations", help="GGUF files, quantized checkpoints.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="The whole run, with manifests and scores.")] = False,
    yes: Yes = False,
) -> None:
    """Remove a run's large files, by kind or all kinds; manifests and scores stay, unless --all."""
    from tuneline.cli.views.removal import render_removables
    from tuneline.endpoints.removable_runs import refuse_if_started_from, refuse_unremovable
    from tuneline.stages.runs.removal import KINDS, Removable, list_removable, measure, remove, remove_run

    folder = find_run(run)
    refuse_unremovable(folder)
    if everything:
        refuse_if_started_from(folder)
    flags = {"checkpoints": checkpoints, "merged": merged, "quantizations": quantizations}
    kinds = [kind for kind in KINDS if flags[kind]] or list(KINDS)
    items = [Removable(folder, "run", measure(folder))] if everything else list_removable(folder, kinds)
    if not items:
        console.print(f"{run}: has none of {', '.join(kinds)}; --all removes the run", soft_wrap=True)
        return
    console.print(render_removables(items))
    if not yes:
        typer.confirm("Remove them?" if not everything else f"Remove the run {run}, its scores included?", abort=True)
    remove_run(folder) if everything else remove(folder, items)
    again = "" if everything else f"; `tuneline runs resume {run}` makes again what a later stage needs"
    console.print(f"{run}: removed{again}", soft_wrap=True)


@app.command()
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed.")] = False, as_json: AsJson = False
) -> None:
    """List what could be removed to free space, with sizes; remove it with --yes."""
    import json

    from tuneline.cli.views.removal import render_removables
    from tuneline.core import paths
    from tuneline.core.terminal import echo
    from tuneline.endpoints.removable_runs import list_garbage
    from tuneline.stages.runs.removal import remove, remove_path

    items = list_garbage()
    if as_json:
        echo(json.dumps([item.as_json() for item in items]))
    else:
        console.print(render_removables(items) if items else "nothing to remove")
    if not yes:
        if items and not as_json:
            console.print("nothing was removed; `tuneline runs gc --yes` removes what is listed", soft_wrap=True)
        return
    runs = sorted({run for item in items if (run := _run_of(item.path, paths.runs()))})
    for run in runs:
        remove(run, [item for item in items if item.path.is_relative_to(run)])
    for item in items:
        if _run_of(item.path, paths.runs()) is None:
            remove_path(item.path)


def _run_of(path: Path, runs: Path) -> Path | None:
    """Return the folder of the run that a path is in, or None."""
    parts = path.relative_to(runs).parts if path.is_relative_to(runs) else ()
    return runs / parts[0] if parts and not parts[0].startswith(".") else None
