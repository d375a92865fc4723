"""Runs changed: stop, resume, remove, free space."""

from typing import Annotated

import typer

from tuneline.cli.commands.pipeline import check_recipe, print_results, run_stages
from tuneline.cli.consoles import console
from tuneline.cli.options import AsJson, ExistingRun, OnModal, Settings
from tuneline.cli.run_folders import find_run

app = typer.Typer()
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


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
        typer.Option(
            "--until", help="Last stage to run. Default: the one the run was started with here, else evaluate."
        ),
    ] = None,
    settings: Settings = None,
    on_modal: OnModal = False,
) -> None:
    """Continue a run with the recipe stored in it; finished stages are kept."""
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
        bool, typer.Option("--checkpoints", help="Remove checkpoints; a stopped stage starts from its beginning.")
    ] = False,
    merged: Annotated[bool, typer.Option("--merged", help="Remove the merged checkpoint.")] = False,
    quantizations: Annotated[
        bool, typer.Option("--quantizations", help="Remove GGUF files and quantized checkpoints.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Remove the whole run, with manifests and scores.")] = False,
    yes: Yes = False,
    on_modal: OnModal = False,
) -> None:
    """Remove a run's large files, of the given kinds or all; manifests and scores stay, unless --all."""
    from tuneline.cli.removal import list_to_remove, remove_listed
    from tuneline.cli.views.removal import render_removables
    from tuneline.stages.runs.removal import KINDS

    flags = {"checkpoints": checkpoints, "merged": merged, "quantizations": quantizations}
    kinds = () if everything else tuple(kind for kind in KINDS if flags[kind]) or KINDS
    items = list_to_remove(run, kinds, on_modal=on_modal)
    if not items:
        console.print(f"{run}: has none of {', '.join(kinds)}; --all removes the run", soft_wrap=True)
        return
    console.print(render_removables(items))
    if not yes:
        typer.confirm("Remove them?" if not everything else f"Remove the run {run}, its scores included?", abort=True)
    remove_listed(run, kinds, items, on_modal=on_modal)
    modal = " --modal" if on_modal else ""
    again = "" if everything else f"; `tuneline runs resume {run}{modal}` makes again what a later stage needs"
    console.print(f"{run}: removed{again}", soft_wrap=True)


@app.command()
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed.")] = False,
    as_json: AsJson = False,
    on_modal: OnModal = False,
) -> None:
    """List what could be removed to free space, with sizes; remove it with --yes."""
    import json

    from tuneline.cli.removal import list_all_garbage, remove_garbage
    from tuneline.cli.views.removal import render_removables
    from tuneline.core.terminal import echo

    items = list_all_garbage(on_modal=on_modal)
    if as_json:
        echo(json.dumps([item.as_json() for item in items]))
    else:
        console.print(render_removables(items) if items else "nothing to remove")
    if yes and items:
        kept = remove_garbage(items, on_modal=on_modal)
        for item in kept:
            console.print(f"{item.path}: left, since its run is in work now", soft_wrap=True)
    elif items and not as_json:
        modal = " --modal" if on_modal else ""
        console.print(f"nothing was removed; `tuneline runs gc{modal} --yes` removes what is listed", soft_wrap=True)
