"""Before a run: plans, the schema of a recipe, and checks of data and of this machine."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tuneline.cli.options import AsJson, RunName
from tuneline.core.terminal import echo

app = typer.Typer()
PANEL: Any = {"rich_help_panel": "The line"}


@app.command(**PANEL)
def plan(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE…", help="One, or several to compare.")],
    run: RunName = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens served; the recipe's serve.context, if not given.")
    ] = None,
    streams: Annotated[int, typer.Option(min=1, help="Requests answered at a time.")] = 1,
    api_usd: Annotated[float | None, typer.Option(help="What an API costs you a month, to compare.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a recipe will need, take and cost, before anything starts; exit 2 for what should not be started."""
    from tuneline.configs.recipe_file import load_recipe
    from tuneline.core import paths
    from tuneline.stages.plan import make_plan, refuse_unstartable

    loaded = [load_recipe(file) for file in recipes]
    folder = None if run is None else paths.run_folder(run)
    plans = [make_plan(recipe, folder, context=context, streams=streams, api_usd=api_usd) for recipe in loaded]
    if as_json:
        from dataclasses import asdict

        echo(json.dumps([asdict(plan) for plan in plans] if len(plans) > 1 else asdict(plans[0])))
    else:
        from tuneline.cli.views.plan import format_plan
        from tuneline.cli.views.plan_comparison import format_plan_comparison

        echo(format_plan(plans[0]) if len(plans) == 1 else format_plan_comparison(plans))
    for recipe, plan in zip(loaded, plans, strict=True):
        refuse_unstartable(recipe, plan)


@app.command(**PANEL)
def schema() -> None:
    """JSON Schema of a recipe, for editors."""
    from tuneline.configs.recipe import Recipe

    echo(json.dumps(Recipe.model_json_schema(), indent=1))


@app.command(**PANEL)
def validate(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="A recipe, or files and folders of rows.")],
    recipe: Annotated[Path | None, typer.Option(help="A recipe whose settings count for these files.")] = None,
    to: Annotated[Path, typer.Option(help="Folder for verdict, page and copy.")] = Path("validation"),
    fix: Annotated[bool, typer.Option("--fix", help="Write a cleaned copy; originals are not touched.")] = False,
) -> None:
    """Tell everything that is wrong with data; exit 2 if it stops a training."""
    from tuneline.stages.prepare import validation

    result = validation.validate(paths, recipe, to, fix=fix)
    echo(result.summary)
    raise typer.Exit(0 if result.passed else 2)


@app.command(**PANEL)
def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or folder of data.", show_default=False)],
    to: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("recipe.yaml"),
    base: Annotated[str, typer.Option(help="`tiny`, a folder, or a hub id.")] = "tiny",
    revision: Annotated[str | None, typer.Option(help="Commit of a hub id.")] = None,
) -> None:
    """Look at data and write a recipe that runs."""
    from tuneline.stages.prepare import recipe_starter

    echo(recipe_starter.write_starter_recipe(path, to, base, revision))


@app.command(**PANEL)
def doctor() -> None:
    """What this machine lacks, and the command that mends it; exit 1 if something is missing."""
    from tuneline.cli.views.doctor import format_findings
    from tuneline.stages.doctor import examine_machine

    findings = examine_machine()
    echo(format_findings(findings))
    raise typer.Exit(int(any(finding.state == "missing" for finding in findings)))
