"""The line and its stages; what comes before a run, and the report after it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuneline.cli.shared import (
    PLAIN,
    AsJson,
    ExistingRun,
    Only,
    RecipeFile,
    RunName,
    console,
    errors_console,
    existing,
    opened,
    served,
    talk_to,
)

if TYPE_CHECKING:
    from tuneline.configs.recipe import Recipe

app = typer.Typer()
PANEL: Any = {"rich_help_panel": "The line"}


@app.command(**PANEL)
def run(recipe: RecipeFile, run: RunName = None, as_json: AsJson = False) -> None:
    """The whole line: fetch, prepare, train, convert, evaluate; then the report."""
    folder = _walk(recipe, run, "evaluate", only=False, as_json=as_json)
    _report(folder, quiet=as_json)
    _leave_by_gate(folder)


@app.command(**PANEL)
def fetch(recipe: RecipeFile, run: RunName = None, only: Only = False, as_json: AsJson = False) -> None:
    """Bring the base model here."""
    _walk(recipe, run, "fetch", only=only, as_json=as_json)


@app.command(**PANEL)
def prepare(recipe: RecipeFile, run: RunName = None, only: Only = False, as_json: AsJson = False) -> None:
    """Make training and validation rows."""
    _walk(recipe, run, "prepare", only=only, as_json=as_json)


@app.command(**PANEL)
def preflight(recipe: RecipeFile, run: RunName = None, as_json: AsJson = False) -> None:
    """Three training steps on the longest rows, and the run priced by them; exit 2 if above max_cost_usd."""
    from tuneline.configs.recipe_file import load_recipe
    from tuneline.stages.preflight import refuse_measured, table

    folder = _walk(recipe, run, "preflight", only=False, as_json=as_json)
    if not as_json:
        console.print(table(folder), **PLAIN)
    refuse_measured(load_recipe(recipe), folder)


@app.command(**PANEL)
def train(recipe: RecipeFile, run: RunName = None, only: Only = False, as_json: AsJson = False) -> None:
    """Train the adapter."""
    _walk(recipe, run, "train", only=only, as_json=as_json)


@app.command(**PANEL)
def convert(recipe: RecipeFile, run: RunName = None, only: Only = False, as_json: AsJson = False) -> None:
    """Merge, convert to GGUF and quantize."""
    _walk(recipe, run, "convert", only=only, as_json=as_json)


@app.command(**PANEL)
def evaluate(recipe: RecipeFile, run: RunName = None, only: Only = False, as_json: AsJson = False) -> None:
    """Ask base and tuned models the suites; exit 3 if the gate says no."""
    folder = _walk(recipe, run, "evaluate", only=only, as_json=as_json)
    _leave_by_gate(folder)


@app.command(**PANEL)
def demo(run: RunName = None) -> None:
    """The demo recipe from end to end, and one question to the model it makes."""
    from tuneline.cli.terminal import closing_panel, scoreboard
    from tuneline.core.paths import ROOT

    folder = _walk(ROOT / "configs/recipes/demo.yaml", run, "evaluate", only=False, as_json=False)
    console.print(scoreboard(opened(folder, "evaluate").metrics, opened(folder, "convert").metrics))
    _report(folder, quiet=False)
    with served(folder) as server:
        talk_to(server.base_url, folder, ["Send Maria a WhatsApp saying the keys are ready"])
    console.print(closing_panel(folder.name))
    _leave_by_gate(folder)


@app.command(**PANEL)
def report(run: ExistingRun) -> None:
    """Write the run's report, one HTML file."""
    _report(existing(run), quiet=False)


@app.command(**PANEL)
def card(run: ExistingRun) -> None:
    """Write the model card, and the notice its base's licence asks for, beside the run's files."""
    from tuneline.stages.report.model_card import write_card

    for file in write_card(existing(run)):
        console.print(str(file), **PLAIN)


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
    from tuneline.stages.plan import plan_of, refuse

    loaded = [load_recipe(file) for file in recipes]
    folder = None if run is None else paths.run_folder(run)
    plans = [plan_of(recipe, folder, context=context, streams=streams, api_usd=api_usd) for recipe in loaded]
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps([asdict(each) for each in plans] if len(plans) > 1 else asdict(plans[0])))
    else:
        from tuneline.cli.tables import plan_text, side_by_side

        typer.echo(plan_text(plans[0]) if len(plans) == 1 else side_by_side(plans))
    for recipe, each in zip(loaded, plans, strict=True):
        refuse(recipe, each)


@app.command(**PANEL)
def schema() -> None:
    """JSON Schema of a recipe, for editors."""
    from tuneline.configs.recipe import Recipe

    typer.echo(json.dumps(Recipe.model_json_schema(), indent=1))


@app.command(**PANEL)
def validate(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="A recipe, or files and folders of rows.")],
    recipe: Annotated[Path | None, typer.Option(help="A recipe whose settings count for these files.")] = None,
    to: Annotated[Path, typer.Option(help="Folder for verdict, page and copy.")] = Path("validation"),
    fix: Annotated[bool, typer.Option("--fix", help="Write a cleaned copy; originals are not touched.")] = False,
) -> None:
    """Tell everything that is wrong with data; exit 2 if it stops a training."""
    from tuneline.stages.prepare.validation import validate as checked

    done = checked(paths, recipe, to, fix=fix)
    typer.echo(done.told)
    raise typer.Exit(0 if done.passed else 2)


@app.command(**PANEL)
def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or folder of data.", show_default=False)],
    to: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("recipe.yaml"),
    base: Annotated[str, typer.Option(help="`tiny`, a folder, or a hub id.")] = "tiny",
    revision: Annotated[str | None, typer.Option(help="Commit of a hub id.")] = None,
) -> None:
    """Look at data and write a recipe that runs."""
    from tuneline.stages.prepare.recipe_starter import init as started

    typer.echo(started(path, to, base, revision))


@app.command(**PANEL)
def doctor() -> None:
    """What this machine lacks, and the command that mends it; exit 1 if something is missing."""
    from tuneline.cli.tables import doctor_text
    from tuneline.stages.doctor import examine

    found = examine()
    typer.echo(doctor_text(found))
    raise typer.Exit(int(any(each.state == "missing" for each in found)))


def _walk(recipe_file: Path, name: str | None, until: str, *, only: bool, as_json: bool) -> Path:
    """Check, tell what will run, run it with live progress; the run's folder."""
    from tuneline.cli.terminal import plan_table
    from tuneline.core import paths
    from tuneline.core.errors import NotFound
    from tuneline.core.progress import Progress
    from tuneline.engines.llama_cpp.build import installed
    from tuneline.stages.line import in_subprocess, plan, run_line, up_to

    recipe = _checked(recipe_file)
    folder = paths.run_folder(recipe.name if name is None else name)
    if until in ("convert", "evaluate"):
        installed()  # said now, not after the training
    states = plan(recipe, folder, up_to(until))
    if only and (missing := [stage for stage in list(states)[:-1] if states[stage] != "finished"]):
        raise NotFound(f"--only: {until} needs {missing[-1]}, which is not finished; leave --only out to make it too")
    out = errors_console if as_json else console
    out.print(plan_table(folder.name, {until: states[until]} if only else states), soft_wrap=True)
    with Progress(out) as progress:
        made = run_line(recipe, until, in_subprocess(recipe, folder, progress.event), only=only)
    if as_json:
        typer.echo(json.dumps(made[-1].metrics))
    return folder


def _checked(recipe_file: Path) -> "Recipe":
    """The recipe, its files and its base looked at before anything is written."""
    from tuneline.configs.recipe_file import load_recipe
    from tuneline.stages.fetch.bases import locate_base
    from tuneline.stages.plan.serving import refuse_unservable

    recipe = load_recipe(recipe_file)
    refuse_unservable(recipe)
    locate_base(recipe)
    return recipe


def _report(folder: Path, *, quiet: bool) -> None:
    from tuneline.stages.report import write_report

    written = write_report(folder)
    if not quiet:
        console.print(f"report: {written}", soft_wrap=True)


def _leave_by_gate(folder: Path) -> None:
    from tuneline.stages.evaluate.verdicts.gate import leave_unless_passed

    leave_unless_passed(opened(folder, "evaluate"))
