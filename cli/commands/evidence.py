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
    b: Annotated[str, typer.Argument(metavar="B", help="The same, held against A.", show_default=False)],
    exact: Annotated[bool, typer.Option("--exact", help="Arguments must be right too.")] = False,
    tools: Annotated[bool, typer.Option("--tools", help="Each tool of a suite is a task of its own.")] = False,
    to: Annotated[Path | None, typer.Option(help="The page; in B's run, if not given.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Hold two models against each other on the items both answered."""
    from tuneline.cli.views.comparison import render_comparison
    from tuneline.stages.evaluate.verdicts import comparison
    from tuneline.stages.report.comparison_page import write_comparison

    result = comparison.compare_models(a, b, exact=exact, by_tool=tools)
    page = write_comparison(result, to or comparison.page_file(result))
    if as_json:
        echo(json.dumps(result.as_json() | {"page": str(page)}))
        return
    console.print(render_comparison(result))
    console.print(f"{len(result.changes)} items changed sides; they stand side by side in {page}", soft_wrap=True)


@app.command(**PANEL)
def rate(
    a: Annotated[str, typer.Argument(metavar="A", help="RUN or RUN:TARGET, as in demo:base.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The same, held against A.", show_default=False)],
    items: Annotated[int, typer.Option(min=1, help="How many answers to rate.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    to: Annotated[Path | None, typer.Option(help="The page; in B's run, if not given.", show_default=False)] = None,
) -> None:
    """Write a page on which people say, not knowing whose, which of two answers is better."""
    from tuneline.stages.evaluate.verdicts.ratings import make_ballot, write_key
    from tuneline.stages.report.ballot_page import write_ballot

    ballot = make_ballot(a, b, items, seed)
    key = write_key(ballot)
    page = write_ballot(ballot, to or key.with_name(f"ballot-{ballot.id}.html"))
    summary = f"{len(ballot.questions)} items ({ballot.same} more were answered alike by both): {page}"
    console.print(f"{summary}\n`tuneline ratings FILE…` reads what people save; {key} stays here", soft_wrap=True)


@app.command(**PANEL)
def ratings(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="What people saved.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Which model people prefer, how sure that is, and how far they agree."""
    from dataclasses import asdict

    from tuneline.cli.views.ratings import format_preference
    from tuneline.stages.evaluate.verdicts.ratings import read_ratings

    preference = read_ratings(files)
    as_dict = asdict(preference) | {"verdict": preference.verdict}
    echo(json.dumps(as_dict) if as_json else format_preference(preference))


@app.command(**PANEL)
def load(
    where: Annotated[str, typer.Argument(metavar="RUN|URL", help="A run, or a server that is up.", show_default=False)],
    rate: Annotated[float, typer.Option(min=0.01, help="Requests a second, come what may.")] = 2.0,
    seconds: Annotated[float, typer.Option(min=1, help="For so long.")] = 60.0,
    run: Annotated[
        str | None, typer.Option("--for", help="The run whose model the URL serves; its gate reads it.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Hardware a query's cost is told for, as 'A10'; the recipe's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Load a served model, open loop: latency, first token, requests a second, memory, cost; for the gate too."""
    from tuneline.cli.views.load_test import format_load
    from tuneline.stages.evaluate.load_testing.load_test import load_test

    url = where if where.startswith(("http://", "https://")) else None
    folder = find_run(run or where) if run or not url else None
    with contextlib.ExitStack() as stack:
        server = None if url or folder is None else stack.enter_context(start_server(folder))
        result = load_test(url, folder, server, rate=rate, seconds=seconds, gpu=gpu)
    echo(result.model_dump_json(ensure_ascii=True) if as_json else format_load(result))


@app.command(**PANEL)
def judge(
    run: ExistingRun,
    model: Annotated[str, typer.Option(help="The model that judges.")] = "",
    provider: Annotated[str, typer.Option(help="Where it answers: openai, groq, …, or a URL.")] = "openai",
    labels: Annotated[Path | None, typer.Option(help="People's labels, to hold it against.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a sheet for people to label, and ask nobody.")] = None,
    items: Annotated[int, typer.Option(min=1, help="How many answers.")] = 200,
) -> None:
    """Have a model judge a run's answers; it counts only where its agreement with people was measured."""
    from tuneline.stages.evaluate.judge_command import judge_run

    console.print(judge_run(find_run(run), provider, model, labels, sheet, items), soft_wrap=True)
