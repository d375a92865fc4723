"""Runs of one recipe with several values of its settings."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuneline.cli.commands.pipeline import check_recipe, run_stages
from tuneline.cli.consoles import console, errors_console
from tuneline.cli.options import AsJson, RecipeFile
from tuneline.core.terminal import echo

if TYPE_CHECKING:
    from tuneline.configs.sweep import SweepRun

app = typer.Typer()
PANEL: Any = {"rich_help_panel": "Pipeline"}


@app.command(**PANEL)
def sweep(
    recipe: RecipeFile,
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE,VALUE", help="Setting with several values, as in train.rank=8,16,32."),
    ],
    run: Annotated[
        str | None, typer.Option("--run", help="Prefix of the runs' names. Default: the recipe's name.")
    ] = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs and their cost without starting them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe with every combination of values, then compare the runs."""
    from tuneline.cli.views.sweep import render_planned_runs, render_sweep
    from tuneline.configs.sweep import expand_sweep
    from tuneline.stages.evaluate.verdicts.sweep_table import compare_runs

    runs = expand_sweep(recipe, settings, run)
    out = errors_console if as_json else console
    for sweep_run in runs:
        check_recipe(sweep_run.recipe)
    out.print(render_planned_runs(runs))
    if dry:
        return
    failures = _run_all(runs, as_json=as_json)
    table = compare_runs([sweep_run.name for sweep_run in runs if sweep_run.name not in failures])
    if as_json:
        echo(json.dumps(table.as_json() | {"failed": failures}))
    else:
        console.print(render_sweep(table, {sweep_run.name: sweep_run.settings for sweep_run in runs}))
        for name, message in failures.items():
            errors_console.print(f"{name}: {message}", soft_wrap=True)
    raise typer.Exit(1 if failures else 0)


def _run_all(runs: "list[SweepRun]", *, as_json: bool) -> dict[str, str]:
    """Run each pipeline; return the messages of those that failed, by run. The others go on."""
    from tuneline.core.errors import TunelineError
    from tuneline.stages.report import write_report

    failures = {}
    for sweep_run in runs:
        try:
            write_report(run_stages(sweep_run.recipe, sweep_run.name, "evaluate", quiet=as_json)[0])
        except TunelineError as error:
            failures[sweep_run.name] = str(error)
            errors_console.print(f"{sweep_run.name} failed: {error}", soft_wrap=True)
    return failures
