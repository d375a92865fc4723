"""The gateway's request log: its end, feedback on a request, rows for training."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tuneline.cli.consoles import console
from tuneline.core.terminal import echo

app = typer.Typer(help="Request log of the gateway: show, add feedback, export rows.", no_args_is_help=True)


@app.command()
def tail(lines: Annotated[int, typer.Option("-n", "--lines", help="Number of lines.", min=1)] = 20) -> None:
    """Show the last requests and feedback, one per line."""
    from collections import deque

    from tuneline.cli.views.logs import format_record
    from tuneline.core import paths
    from tuneline.endpoints.request_log.follower import LogFollower

    records = deque(LogFollower(paths.logs()).poll(), maxlen=10 * lines)
    for record in sorted(records, key=lambda record: str(record.get("at")))[-lines:]:
        echo(format_record(record))
    if not records:
        console.print(f"no requests yet in {paths.logs()}")


@app.command()
def feedback(
    request: Annotated[str, typer.Argument(metavar="ID", help="Id of the request.", show_default=False)],
    rating: Annotated[str, typer.Option(help="Rating: good or bad.")] = "",
    correction: Annotated[str, typer.Option(help="The right answer.")] = "",
) -> None:
    """Record feedback on an answer."""
    from tuneline.core import paths
    from tuneline.core.errors import BadRequest, NotFound
    from tuneline.endpoints.gateway.api_errors import ApiError
    from tuneline.endpoints.gateway.feedback import read_feedback
    from tuneline.endpoints.gateway.logged_prompts import mask
    from tuneline.endpoints.request_log.export import read_requests
    from tuneline.endpoints.request_log.writer import LogWriter

    body = {"id": request} | ({"rating": rating} if rating else {}) | ({"correction": correction} if correction else {})
    try:
        line = read_feedback(json.dumps(body).encode(), "", mask)
    except ApiError as error:
        raise BadRequest(error.message) from None
    if request not in read_requests(paths.logs()):
        raise NotFound(f"{request}: no such request in {paths.logs()}; `tuneline logs tail` shows the last ones")
    writer = LogWriter(paths.logs())
    writer.append(line.as_record())
    writer.close()


@app.command()
def export(
    to: Annotated[Path, typer.Option("--to", help="JSONL file to write.", show_default=False)],
    model: Annotated[str, typer.Option(help="Only requests to this model.")] = "",
    task: Annotated[str, typer.Option(help="Only requests of this task.")] = "",
    rating: Annotated[str, typer.Option(help="Only requests rated good, or bad.")] = "",
    corrected: Annotated[
        bool, typer.Option("--corrected", help="Also requests with a correction; without --rating, only those.")
    ] = False,
    recipe: Annotated[
        list[Path] | None,
        typer.Option(help="Recipe whose suites' requests are left out too. May be repeated.", show_default=False),
    ] = None,
) -> None:
    """Export logged requests as training rows (needs `log.prompts`); requests of suites are left out."""
    from tuneline.configs.recipe_file import load_recipe
    from tuneline.core import paths
    from tuneline.core.errors import BadRequest, NotFound
    from tuneline.core.files import write_atomic
    from tuneline.endpoints.promotion import read_promoted_recipes
    from tuneline.endpoints.request_log.export import Selection, asks_a_suite, list_suite_questions, make_rows

    if rating not in ("", "good", "bad"):
        raise BadRequest(f"--rating {rating}: good or bad")
    questions = list_suite_questions([*read_promoted_recipes(), *map(load_recipe, recipe or ())])
    selected = list(make_rows(paths.logs(), Selection(model, task, rating, corrected)))
    if not selected:
        raise NotFound(
            f"{paths.logs()}: no matching request with its text; set `log.prompts` in gateway.yaml to log texts"
        )
    rows = [row for row in selected if not asks_a_suite(row, questions)]
    write_atomic(to, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    left_out = f"; {len(selected) - len(rows):,} that occur in a suite were left out" if questions else ""
    console.print(f"{to}: {len(rows):,} rows{left_out}; `tuneline validate {to}` looks at them", soft_wrap=True)
