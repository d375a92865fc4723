"""What was run, here or on Modal."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import typer

from tuneline.cli.shared import AsJson, ExistingRun, OnModal, console, existing, opened

app = typer.Typer(help="What was run, here or on Modal.", no_args_is_help=True)


@app.command()
def ls(as_json: AsJson = False, on_modal: OnModal = False) -> None:
    """All runs and how far each is."""
    from tuneline.cli.terminal import runs_table, stage_states

    with _runs(on_modal) as root:
        found = [(f.name, stage_states(f)) for f in sorted(root.glob("*")) if (f / "recipe.json").exists()]
    if as_json:
        typer.echo(json.dumps([{"run": name, "stages": states} for name, states in found]))
    else:
        console.print(runs_table(found) if found else "no run yet; `tuneline demo` makes one")


@app.command()
def show(run: ExistingRun, as_json: AsJson = False, on_modal: OnModal = False) -> None:
    """One run: its stages, and what was measured."""
    from tuneline.cli.terminal import run_details
    from tuneline.core.artifacts import finished

    with _runs(on_modal) as root:
        folder = existing(run, root)
        done = {
            f.parent.name: opened(folder, f.parent.name)
            for f in sorted(folder.glob("*/manifest.json"))
            if finished(f.parent)
        }
        if as_json:
            typer.echo(json.dumps({stage: artifact.manifest.metrics for stage, artifact in done.items()}))
        else:
            console.print(run_details(folder, done))


@app.command()
def logs(run: ExistingRun, on_modal: OnModal = False) -> None:
    """What a run told so far: its events, as plain lines."""
    from tuneline.cli.terminal import event_line

    if on_modal:
        from tuneline.volumes.remote import events

        lines = events(run)
    else:
        lines = iter((existing(run) / "events.jsonl").read_bytes().splitlines())
    for line in lines:
        typer.echo(event_line(json.loads(line)))


@app.command()
def cancel(run: ExistingRun, on_modal: OnModal = False) -> None:
    """Stop whoever makes a run; the same command that made it goes on from the last checkpoint."""
    if on_modal:
        from tuneline.volumes.remote import cancel

        console.print(f"{run}: {cancel(run)} is cancelled", highlight=False)
        return
    from tuneline.core.locks import stop_holder

    console.print(f"{run}: {stop_holder(existing(run))} is told to stop", highlight=False)


@contextlib.contextmanager
def _runs(on_modal: bool) -> Iterator[Path]:
    """The folder of all runs here, or a passing copy of what is known of those on Modal."""
    from tuneline.core import paths

    if not on_modal:
        yield paths.runs()
        return
    import tempfile

    from tuneline.volumes.remote import mirror

    with tempfile.TemporaryDirectory() as folder:
        mirror(Path(folder))
        yield Path(folder)
