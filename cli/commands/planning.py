"""Before a run: plans, the schema of a recipe, and checks of data and of this machine."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from tuneline.cli.consoles import errors_console
from tuneline.cli.options import AsJson, RunName, Settings
from tuneline.core.terminal import echo

app = typer.Typer()
PANEL: Any = {"rich_help_panel": "Pipeline"}


@app.command(**PANEL)
def plan(
    recipes: Annotated[
        list[Path], typer.Argument(metavar="RECIPE", help="Recipe to plan; give several to compare them.")
    ],
    settings: Settings = None,
    run: RunName = None,
    context: Annotated[
        int | None, typer.Option(help="Context length to serve, in tokens. Default: serve.context.")
    ] = None,
    streams: Annotated[int, typer.Option(min=1, help="Concurrent requests to serve.")] = 1,
    api_usd: Annotated[float | None, typer.Option(help="Your monthly API bill in USD, for comparison.")] = None,
    as_json: AsJson = False,
) -> None:
    """Estimate memory, time and cost of a recipe; exit 2 if it should not be started."""
    from tuneline.configs.recipe_file import load_recipe
    from tuneline.core import paths
    from tuneline.stages.early_checks import find_shortcomings, refuse_early
    from tuneline.stages.plan import make_plan, refuse_unstartable

    loaded = [load_recipe(file, settings or ()) for file in recipes]
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
        refuse_early(recipe)
        for shortcoming in find_shortcomings(recipe, plan.training.steps):
            errors_console.print(f"warning: {recipe.name}: {shortcoming}", soft_wrap=True)


@app.command(**PANEL)
def schema(
    kind: Annotated[str, typer.Argument(metavar="recipe|gateway", help="File to describe.")] = "recipe",
) -> None:
    """Print the JSON Schema of a recipe or of gateway.yaml, for editors."""
    from tuneline.configs.gateway import Gateway
    from tuneline.configs.recipe import Recipe
    from tuneline.core.errors import BadRequest

    models: dict[str, Any] = {"recipe": Recipe, "gateway": Gateway}
    if kind not in models:
        raise BadRequest(f"{kind}: unknown; known: {', '.join(models)}")
    echo(json.dumps(models[kind].model_json_schema(), indent=1))


@app.command(**PANEL)
def validate(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="A recipe, or data files and folders.")],
    settings: Settings = None,
    recipe: Annotated[Path | None, typer.Option(help="Recipe whose settings apply to these files.")] = None,
    to: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("validation"),
    fix: Annotated[
        bool, typer.Option("--fix", help="Write a cleaned copy of the data; the originals stay unchanged.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check data and report every problem; exit 2 if there are errors."""
    from tuneline.stages.early_checks import list_test_questions
    from tuneline.stages.prepare import validation

    result = validation.validate(
        paths, recipe, to, fix=fix, settings=settings or (), list_questions=list_test_questions
    )
    echo(json.dumps(result.verdict, ensure_ascii=False) if as_json else result.summary)
    raise typer.Exit(0 if result.passed else 2)


@app.command(**PANEL)
def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Data file or folder.", show_default=False)],
    to: Annotated[Path, typer.Option(help="Recipe file to write.")] = Path("recipe.yaml"),
    base: Annotated[
        str, typer.Option(help="Base model: a name of `tuneline models ls`, a folder, or a hub id.")
    ] = "tiny",
    revision: Annotated[str | None, typer.Option(help="Commit of the base on the hub.")] = None,
) -> None:
    """Inspect data and write a recipe for it; exit 2 if the data has errors."""
    from tuneline.configs.recipe_file import load_recipe
    from tuneline.stages.fetch.bases import find_unpinned_base
    from tuneline.stages.prepare import recipe_starter, validation
    from tuneline.stages.prepare.requirements import describe_loss

    found = recipe_starter.write_starter_recipe(path, to, base, revision)
    verdict = validation.examine_recipe(to)
    if loss := describe_loss(verdict.verdict):
        echo(f"WARNING: {loss}")
    echo(found)
    file = shlex.quote(str(to))
    if verdict.passed:
        repo = find_unpinned_base(load_recipe(to))
        download = f"tuneline models download {repo}; " if repo else ""
        echo(f"next: tuneline plan {file}; {download}tuneline run {file}")
    else:
        echo(f"{verdict.summary}\nnext: fix the errors, then run tuneline validate {file}")
        raise typer.Exit(2)


@app.command(**PANEL)
def doctor() -> None:
    """Check this machine and suggest fixes; exit 1 if something is missing."""
    from tuneline.cli.views.doctor import format_findings
    from tuneline.stages.doctor import examine_machine

    findings = examine_machine()
    echo(format_findings(findings))
    raise typer.Exit(int(any(finding.state == "missing" for finding in findings)))
