"""Runs on this machine or on Modal as they are: list, show, follow."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from tuneline.cli.consoles import console, errors_console
from tuneline.cli.options import AsJson, ExistingRun, OnModal
from tuneline.cli.run_folders import find_run
from tuneline.core.terminal import echo

app = typer.Typer(help="Runs here or on Modal: list, show, compare, stop, resume, remove.", no_args_is_help=True)
POLL_S, MODAL_POLL_S = 0.5, 5.0
"""Seconds between two looks for new events, here and on Modal, where they are committed every half minute."""


@app.command()
def ls(
    as_json: AsJson = False,
    on_modal: Annotated[bool, typer.Option("--modal", help="Add the runs on Modal.")] = False,
) -> None:
    """List all runs: base, stage, progress, gate, promoted names, hours and cost."""
    from tuneline.cli.views.runs import render_runs
    from tuneline.endpoints.run_list import list_runs

    runs = list_runs()
    if on_modal:
        from tuneline.volumes.remote import list_modal_runs

        runs += list_modal_runs()
    if as_json:
        echo(json.dumps([run.as_json() for run in runs]))
    else:
        console.print(render_runs(runs) if runs else "no runs yet; start one with `tuneline demo`")


@app.command()
def show(run: ExistingRun, as_json: AsJson = False, on_modal: OnModal = False) -> None:
    """Show one run: its state, the stages with their attempts and cost, the scores, and where it is published."""
    from tuneline.cli.views.publication import format_published
    from tuneline.cli.views.runs import render_run
    from tuneline.core.artifacts import is_finished, read_artifact
    from tuneline.core.spending import read_attempts
    from tuneline.publish.record import read_published
    from tuneline.stages.run_artifacts import NEEDS, find_problems, open_stage, read_stage
    from tuneline.stages.runs.summary import summarize_run

    with _open_runs(on_modal, run) as root:
        folder = find_run(run, root)
        problems = find_problems(folder, read_stage if on_modal else open_stage)
        stages = [stage for stage in sorted(NEEDS) if is_finished(folder / stage) and stage not in problems]
        artifacts = {stage: read_artifact(folder / stage) for stage in stages}
        if as_json:
            echo(json.dumps({stage: artifact.manifest.metrics for stage, artifact in artifacts.items()}))
        else:
            where: Any = "modal" if on_modal else "here"
            summary = summarize_run(folder, is_running=_is_running(run, on_modal), where=where)
            console.print(render_run(folder, summary, artifacts, read_attempts(folder)))
            for target, record in read_published(folder).targets.items():
                console.print(format_published(run, target, record), soft_wrap=True, markup=False)
        for problem in problems.values():
            errors_console.print(problem, soft_wrap=True)


@app.command()
def logs(
    run: ExistingRun,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Keep printing until the run ends.")] = False,
    on_modal: OnModal = False,
) -> None:
    """Print the events of a run as plain lines."""
    from tuneline.cli.views.runs import format_event
    from tuneline.core.events import FILE, parse_event

    damaged = 0
    for line in _follow_lines(run, on_modal) if follow else _read_lines(run, on_modal):
        if event := parse_event(line):
            echo(format_event(event))
        else:
            damaged += 1
    if damaged:
        errors_console.print(f"{damaged} damaged lines of {FILE} were skipped", soft_wrap=True)


def _read_lines(run: str, on_modal: bool, skipped: int = 0) -> Iterator[bytes]:
    """Yield the whole lines of a run's events, but for the first `skipped` bytes.

    Raises:
        NotFound: there is no such run.
    """
    from tuneline.core import jsonl
    from tuneline.core.events import FILE

    if not on_modal:
        yield from jsonl.whole_lines(find_run(run) / FILE, skipped)
        return
    from tuneline.volumes.remote import read_events

    lines = read_events(run)[skipped:].splitlines(keepends=True)
    yield from (line for line in lines if line.endswith(b"\n"))


def _follow_lines(run: str, on_modal: bool) -> Iterator[bytes]:
    """Yield the lines of a run's events as they come, until nobody works on the run any more."""
    import time

    read, is_running = 0, True
    while is_running:
        is_running = _is_running(run, on_modal)  # asked first: what comes before the end is read after it
        for line in _read_lines(run, on_modal, read):
            read += len(line)
            yield line
        if is_running:
            time.sleep(MODAL_POLL_S if on_modal else POLL_S)


def _is_running(run: str, on_modal: bool) -> bool:
    if on_modal:
        from tuneline.volumes.remote import is_running_on_modal

        return is_running_on_modal(run)
    from tuneline.core.locks import find_holder

    return find_holder(find_run(run)) is not None


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Name of a run.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Name of another run.", show_default=False)],
    as_json: AsJson = False,
    on_modal: OnModal = False,
) -> None:
    """Show what differs between two runs: settings, data, versions, losses, scores."""
    from tuneline.cli.views.differences import render_differences
    from tuneline.stages.runs.differences import compare_runs

    with _open_runs(on_modal, a, b) as root:
        differences = compare_runs(find_run(a, root), find_run(b, root))
    if as_json:
        echo(json.dumps([difference.as_json() for difference in differences]))
    else:
        nothing = f"{a} and {b} differ in nothing that was recorded"
        console.print(render_differences(a, b, differences) if differences else nothing)


@contextlib.contextmanager
def _open_runs(on_modal: bool, *runs: str) -> Iterator[Path]:
    """Yield the folder of all runs on this machine, or a temporary copy of what is known of `runs` on Modal."""
    from tuneline.core import paths

    if not on_modal:
        yield paths.runs()
        return
    import tempfile

    from tuneline.volumes.remote import mirror_runs

    with tempfile.TemporaryDirectory() as folder:
        mirror_runs(Path(folder), runs)
        yield Path(folder)
