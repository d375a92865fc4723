"""What was run, here or on Modal."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import typer

from tuneline.cli.consoles import console, errors_console
from tuneline.cli.options import AsJson, ExistingRun, OnModal
from tuneline.cli.run_folders import find_run, open_stage, read_stage_states
from tuneline.core.terminal import echo

app = typer.Typer(help="What was run, here or on Modal.", no_args_is_help=True)


@app.command()
def ls(as_json: AsJson = False, on_modal: OnModal = False) -> None:
    """All runs and how far each is."""
    from tuneline.cli.views.runs import render_runs

    with _open_runs(on_modal) as root:
        folders = [folder for folder in sorted(root.glob("*")) if (folder / "recipe.json").exists()]
        runs = [(folder.name, read_stage_states(folder)) for folder in folders]
    if as_json:
        echo(json.dumps([{"run": name, "stages": states} for name, states in runs]))
    else:
        console.print(render_runs(runs) if runs else "no run yet; `tuneline demo` makes one")


@app.command()
def show(run: ExistingRun, as_json: AsJson = False, on_modal: OnModal = False) -> None:
    """One run: its stages, and what was measured."""
    from tuneline.cli.views.runs import render_run
    from tuneline.core.artifacts import is_finished

    with _open_runs(on_modal) as root:
        folder = find_run(run, root)
        artifacts = {
            file.parent.name: open_stage(folder, file.parent.name)
            for file in sorted(folder.glob("*/manifest.json"))
            if is_finished(file.parent)
        }
        if as_json:
            echo(json.dumps({stage: artifact.manifest.metrics for stage, artifact in artifacts.items()}))
        else:
            console.print(render_run(folder, artifacts))


@app.command()
def logs(run: ExistingRun, on_modal: OnModal = False) -> None:
    """What a run told so far: its events, as plain lines."""
    from tuneline.cli.views.runs import format_event
    from tuneline.core import jsonl
    from tuneline.core.events import FILE, parse_event

    if on_modal:
        from tuneline.volumes.remote import read_event_lines

        lines = read_event_lines(run)
    else:
        lines = jsonl.whole_lines(find_run(run) / FILE)
    damaged = 0
    for line in lines:
        if event := parse_event(line):
            echo(format_event(event))
        else:
            damaged += 1
    if damaged:
        errors_console.print(f"{damaged} damaged lines of {FILE} are left out", soft_wrap=True)


@app.command()
def cancel(run: ExistingRun, on_modal: OnModal = False) -> None:
    """Stop whoever makes a run; the same command that made it goes on from the last checkpoint."""
    if on_modal:
        from tuneline.volumes.remote import cancel_run

        console.print(f"{run}: {cancel_run(run)} is cancelled", soft_wrap=True)
        return
    from tuneline.core.locks import stop_holder

    console.print(f"{run}: {stop_holder(find_run(run))} is told to stop", soft_wrap=True)


@contextlib.contextmanager
def _open_runs(on_modal: bool) -> Iterator[Path]:
    """Return the folder of all runs on this machine, or a temporary copy of what is known of those on Modal."""
    from tuneline.core import paths

    if not on_modal:
        yield paths.runs()
        return
    import tempfile

    from tuneline.volumes.remote import mirror_runs

    with tempfile.TemporaryDirectory() as folder:
        mirror_runs(Path(folder))
        yield Path(folder)
