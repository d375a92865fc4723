"""Publishing a run to where people use it, and taking it back."""

import json
from typing import Annotated

import typer

from tuneline.cli.consoles import console
from tuneline.cli.options import AsJson, ExistingRun, Settings
from tuneline.cli.run_folders import find_run
from tuneline.core.terminal import echo

app = typer.Typer()


@app.command(rich_help_panel="Going live")
def publish(
    run: ExistingRun,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="TARGET", help="Where to publish it: hub, ollama, s3, …; docs/publish.md lists all."
        ),
    ] = None,
    withdraw_from: Annotated[
        str | None, typer.Option("--from", metavar="TARGET", help="Withdraw it from there.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every request and file; send and write nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Go ahead although it costs money.")] = False,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Publish a run, or withdraw it; rerun to resume."""
    from tuneline.cli.views.publication import format_plan, format_published
    from tuneline.core.errors import BadRequest
    from tuneline.publish import command

    if (to is None) == (withdraw_from is None):
        raise BadRequest(f"publish: give one of --to and --from: `tuneline publish {run} --to hub --dry-run`")
    publication = command.open_publication(find_run(run), to or withdraw_from or "", settings or (), undo=to is None)
    if dry_run:
        steps = command.plan_steps(publication, undo=to is None)
        cost = "" if to is None else command.explain_cost(publication)
        listed = {"steps": [{"does": step.shows, "body": step.body} for step in steps], "cost": cost}
        echo(json.dumps(listed) if as_json else format_plan(steps, cost))
        return
    say = (lambda line: None) if as_json else (lambda line: console.print(line, soft_wrap=True, markup=False))
    if to is None:
        command.withdraw_run(publication, say)
        echo(json.dumps({"state": "withdrawn"}) if as_json else f"{run}: withdrawn from {withdraw_from}")
        return
    record = command.publish_run(publication, say, may_spend=yes)
    echo(record.model_dump_json() if as_json else format_published(run, to, record))
