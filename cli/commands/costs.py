"""What was spent: by day, run and endpoint."""

import json
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tuneline.cli.consoles import console
from tuneline.cli.options import AsJson
from tuneline.core.terminal import echo

if TYPE_CHECKING:
    from tuneline.core.ledger import Spent

app = typer.Typer()
PANEL: Any = {"rich_help_panel": "Runs, bases, keys"}


@app.command(**PANEL)
def cost(
    by: Annotated[
        Literal["day", "run", "line"], typer.Option("--by", help="Sum by day, by run or endpoint, or not at all.")
    ] = "run",
    since: Annotated[
        datetime | None, typer.Option("--since", formats=["%Y-%m-%d"], help="Leave out earlier days (UTC).")
    ] = None,
    as_json: AsJson = False,
    on_modal: Annotated[bool, typer.Option("--modal", help="Add what was spent on Modal.")] = False,
) -> None:
    """Show what runs and endpoints cost, including failed, cancelled and removed runs."""
    from tuneline.cli.views.costs import render_costs

    lines = read_spent(on_modal, since.date() if since else None)
    if as_json:
        echo(json.dumps([line.as_json() for line in lines]))
    else:
        console.print(render_costs(lines, by) if lines else "nothing was spent yet")


def read_spent(on_modal: bool, since: date | None = None) -> "list[Spent]":
    """Return what was spent here, and on Modal if asked for, since a day, oldest first."""
    from tuneline.core import paths
    from tuneline.core.ledger import read_ledger
    from tuneline.endpoints.request_costs import read_request_costs
    from tuneline.stages.runs.paid_answers import read_paid_answers

    spent = [*read_ledger(paths.runs()), *read_request_costs(paths.logs()), *read_paid_answers(paths.cache())]
    if on_modal:
        import tempfile

        from tuneline.volumes.remote import mirror_ledger

        with tempfile.TemporaryDirectory() as folder:
            runs, logs, scores = mirror_ledger(Path(folder))
            spent += [line for ledger in (runs, logs, scores) for line in read_ledger(ledger)]
            spent += read_request_costs(logs, "modal")
    of_days = [line for line in spent if since is None or line.day >= since]
    return sorted(of_days, key=lambda line: (line.day, line.kind, line.name))
