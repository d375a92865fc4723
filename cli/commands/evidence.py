"""Which model is better: comparisons, ratings by people, an LLM judge, and load tests."""

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tuneline.cli.consoles import console
from tuneline.cli.model_server import start_server
from tuneline.cli.options import AsJson, ExistingRun
from tuneline.cli.run_folders import find_run
from tuneline.core.terminal import echo

app = typer.Typer()
PANEL: Any = {"rich_help_panel": "Evidence"}


@app.command(**PANEL)
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="RUN or RUN:TARGET, as in demo:base.", show_default=False)],
    b: Annotated[
        str, typer.Argument(metavar="B", help="RUN or RUN:TARGET that is compared with A.", show_default=False)
    ],
    exact: Annotated[
        bool, typer.Option("--exact", help="An answer counts as right only if its arguments are right too.")
    ] = False,
    tools: Annotated[bool, typer.Option("--tools", help="Compare tool by tool instead of suite by suite.")] = False,
    to: Annotated[
        Path | None, typer.Option(help="HTML page to write. Default: a file in B's run folder.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two models on the items both answered."""
    from tuneline.cli.views.comparison import render_comparison
    from tuneline.stages.evaluate.verdicts import comparison
    from tuneline.stages.report.comparison_page import write_comparison

    result = comparison.compare_models(a, b, exact=exact, by_tool=tools)
    page = write_comparison(result, to or comparison.page_file(result))
    if as_json:
        echo(json.dumps(result.as_json() | {"page": str(page)}))
        return
    console.print(render_comparison(result))
    console.print(
        f"{len(result.changes)} items are right in only one of the two; see them side by side in {page}", soft_wrap=True
    )


@app.command(**PANEL)
def rate(
    a: Annotated[str, typer.Argument(metavar="A", help="RUN or RUN:TARGET, as in demo:base.", show_default=False)],
    b: Annotated[
        str, typer.Argument(metavar="B", help="RUN or RUN:TARGET that is compared with A.", show_default=False)
    ],
    items: Annotated[int, typer.Option(min=1, help="Number of answers to rate.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the random selection.")] = 0,
    to: Annotated[
        Path | None, typer.Option(help="HTML page to write. Default: a file in B's run folder.", show_default=False)
    ] = None,
) -> None:
    """Write a page for blind ratings: people choose the better of two answers."""
    from tuneline.stages.evaluate.verdicts.ratings import make_ballot, write_key
    from tuneline.stages.report.ballot_page import write_ballot

    ballot = make_ballot(a, b, items, seed)
    key = write_key(ballot)
    page = write_ballot(ballot, to or key.with_name(f"ballot-{ballot.id}.html"))
    summary = f"{len(ballot.questions)} items ({ballot.same} more got the same answer from both): {page}"
    console.print(f"{summary}\n`tuneline ratings FILE…` evaluates the saved ratings; keep {key} here", soft_wrap=True)


@app.command(**PANEL)
def ratings(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Rating files saved from the page.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Show which model people prefer, with its uncertainty and the raters' agreement."""
    from dataclasses import asdict

    from tuneline.cli.views.ratings import format_preference
    from tuneline.stages.evaluate.verdicts.ratings import read_ratings

    preference = read_ratings(files)
    as_dict = asdict(preference) | {"verdict": preference.verdict}
    echo(json.dumps(as_dict) if as_json else format_preference(preference))


@app.command(**PANEL)
def load(
    where: Annotated[
        str, typer.Argument(metavar="RUN|URL", help="Run name, or URL of a running server.", show_default=False)
    ],
    rate: Annotated[
        float, typer.Option(min=0.01, help="Requests per second, sent whether or not earlier ones were answered.")
    ] = 2.0,
    seconds: Annotated[float, typer.Option(min=1, help="Duration in seconds.")] = 60.0,
    run: Annotated[
        str | None,
        typer.Option("--for", help="Run whose model the URL serves; the result is stored there for its gate."),
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="GPU of the server at URL, as in 'A10'; its price is used for the cost.")
    ] = None,
    usd_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Price per hour of the machine that serves.", show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model name, at a URL that serves several.")] = None,
    as_json: AsJson = False,
) -> None:
    """Load test (open loop): latency, time to first token, throughput, memory and cost."""
    from tuneline.cli.views.load_test import format_load
    from tuneline.stages.evaluate.load_testing.load_test import load_test

    url = where if where.startswith(("http://", "https://")) else None
    folder = find_run(run or where) if run or not url else None
    with contextlib.ExitStack() as stack:
        server = None if url or folder is None else stack.enter_context(start_server(folder))
        result = load_test(
            url, folder, server, rate=rate, seconds=seconds, gpu=gpu, usd_per_hour=usd_per_hour, model=model
        )
    echo(result.model_dump_json(ensure_ascii=True) if as_json else format_load(result))


@app.command(**PANEL)
def judge(
    run: ExistingRun,
    model: Annotated[str, typer.Option(help="Model used as the judge; not needed with --sheet.")] = "",
    provider: Annotated[str, typer.Option(help="Provider of the judge: openai, groq, …, or a URL.")] = "openai",
    labels: Annotated[
        Path | None, typer.Option(help="Labels by people, to measure the judge's agreement with them.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a sheet for people to label, without asking a judge.")
    ] = None,
    items: Annotated[int, typer.Option(min=1, help="Number of answers to grade.")] = 200,
) -> None:
    """Grade a run's answers with an LLM judge, calibrated against labels by people."""
    from tuneline.stages.evaluate.judge_command import judge_run

    console.print(judge_run(find_run(run), provider, model, labels, sheet, items), soft_wrap=True)


@app.command(**PANEL)
def scores(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Promoted name. Default: all.", show_default=False)
    ] = None,
    as_json: AsJson = False,
    on_modal: Annotated[bool, typer.Option("--modal", help="Show the evaluations on Modal.")] = False,
) -> None:
    """Show the scheduled evaluations of promoted names over time."""
    from tuneline.cli.views.scores import render_scores
    from tuneline.core import paths
    from tuneline.endpoints.score_history import read_score_history

    if on_modal:
        import tempfile

        from tuneline.volumes.remote import mirror_scores

        with tempfile.TemporaryDirectory() as folder:
            mirror_scores(Path(folder))
            history = read_score_history(Path(folder), name)
    else:
        history = read_score_history(paths.scores(), name)
    if as_json:
        echo(json.dumps([score.as_json() for score in history]))
    else:
        nothing = "no scheduled evaluation yet: schedule.cron in configs/cloud.yaml turns it on (docs/modal.md)"
        console.print(render_scores(history) if history else nothing, soft_wrap=not history)
