"""The pipeline and its stages, and the report and model card of a run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tuneline.cli.consoles import console, errors_console
from tuneline.cli.model_server import start_server
from tuneline.cli.options import AsJson, ExistingRun, Only, RecipeFile, RunName
from tuneline.cli.run_folders import find_run, open_stage
from tuneline.core.terminal import echo

if TYPE_CHECKING:
    from tuneline.configs.recipe import Recipe

app = typer.Typer()
PANEL: Any = {"rich_help_panel": "The line"}


@app.command(**PANEL)
def run(recipe: RecipeFile, run: RunName = None, as_json: AsJson = False) -> None:
    """The whole line: fetch, prepare, train, convert, evaluate; then the report."""
    folder = _run_pipeline(recipe, run, "evaluate", only=False, as_json=as_json)
    _write_report(folder, quiet=as_json)
    _exit_by_gate(folder)


@app.command(**PANEL)
def fetch(recipe: RecipeFile, run: RunName = None, only: Only = False, as_json: AsJson = False) -> None:
    """Bring the base model here."""
    _run_pipeline(recipe, run, "fetch", only=only, as_json=as_json)


@app.command(**PANEL)
def prepare(recipe: RecipeFile, run: RunName = None, only: Only = False, as_json: AsJson = False) -> None:
    """Make training and validation rows."""
    _run_pipeline(recipe, run, "prepare", only=only, as_json=as_json)


@app.command(**PANEL)
def preflight(recipe: RecipeFile, run: RunName = None, as_json: AsJson = False) -> None:
    """Three training steps on the longest rows, and the run priced by them; exit 2 if above max_cost_usd."""
    from tuneline.configs.recipe_file import load_recipe
    from tuneline.stages.preflight import format_comparison, refuse_over_budget

    folder = _run_pipeline(recipe, run, "preflight", only=False, as_json=as_json)
    if not as_json:
        console.print(format_comparison(folder), soft_wrap=True)
    refuse_over_budget(load_recipe(recipe), folder)


@app.command(**PANEL)
def train(recipe: RecipeFile, run: RunName = None, only: Only = False, as_json: AsJson = False) -> None:
    """Train the adapter."""
    _run_pipeline(recipe, run, "train", only=only, as_json=as_json)


@app.command(**PANEL)
def convert(recipe: RecipeFile, run: RunName = None, only: Only = False, as_json: AsJson = False) -> None:
    """Merge, convert to GGUF and quantize."""
    _run_pipeline(recipe, run, "convert", only=only, as_json=as_json)


@app.command(**PANEL)
def evaluate(recipe: RecipeFile, run: RunName = None, only: Only = False, as_json: AsJson = False) -> None:
    """Ask base and tuned models the suites; exit 3 if the gate says no."""
    folder = _run_pipeline(recipe, run, "evaluate", only=only, as_json=as_json)
    _exit_by_gate(folder)


@app.command(**PANEL)
def demo(run: RunName = None) -> None:
    """The demo recipe from end to end, and one question to the model it makes."""
    from tuneline.cli.chat import chat_with_server
    from tuneline.cli.views.pipeline import render_next_steps
    from tuneline.cli.views.scoreboard import render_scoreboard
    from tuneline.core.paths import ROOT

    folder = _run_pipeline(ROOT / "configs/recipes/demo.yaml", run, "evaluate", only=False, as_json=False)
    console.print(render_scoreboard(open_stage(folder, "evaluate").metrics, open_stage(folder, "convert").metrics))
    _write_report(folder, quiet=False)
    with start_server(folder) as server:
        chat_with_server(server.base_url, folder, ["Send Maria a WhatsApp saying the keys are ready"])
    console.print(render_next_steps(folder.name))
    _exit_by_gate(folder)


@app.command(**PANEL)
def report(run: ExistingRun) -> None:
    """Write the run's report, one HTML file."""
    _write_report(find_run(run), quiet=False)


@app.command(**PANEL)
def card(run: ExistingRun) -> None:
    """Write the model card, and the notice its base's licence asks for, beside the run's files."""
    from tuneline.stages.report.model_card import write_card

    for file in write_card(find_run(run)):
        console.print(str(file), soft_wrap=True)


def _run_pipeline(recipe_file: Path, name: str | None, until: str, *, only: bool, as_json: bool) -> Path:
    """Run the pipeline up to stage `until` with live progress, and return the run's folder.

    The recipe is checked first; what will run is printed before it starts. `as_json` prints the metrics of the last
    stage on stdout and everything else on stderr.

    Raises:
        NotFound: `only` is set and a stage before `until` is not finished.
    """
    from tuneline.cli.views.pipeline import render_stages_to_run
    from tuneline.core import paths
    from tuneline.core.errors import NotFound
    from tuneline.core.progress import Progress
    from tuneline.engines.llama_cpp.build import find_llama_cpp
    from tuneline.stages.line import describe_stages, run_line, stages_up_to, subprocess_runner

    recipe = _load_checked_recipe(recipe_file)
    folder = paths.run_folder(recipe.name if name is None else name)
    if until in ("convert", "evaluate"):
        find_llama_cpp()  # a missing llama.cpp is an error now, not after the training
    states = describe_stages(recipe, folder, stages_up_to(until))
    if only and (missing := [stage for stage in list(states)[:-1] if states[stage] != "finished"]):
        raise NotFound(f"--only: {until} needs {missing[-1]}, which is not finished; leave --only out to make it too")
    out = errors_console if as_json else console
    out.print(render_stages_to_run(folder.name, {until: states[until]} if only else states), soft_wrap=True)
    with Progress(out) as progress:
        artifacts = run_line(recipe, until, subprocess_runner(recipe, folder, progress.show), only=only)
    if as_json:
        echo(json.dumps(artifacts[-1].metrics))
    return folder


def _load_checked_recipe(recipe_file: Path) -> "Recipe":
    """Return the recipe after checking it, its files and its base; nothing has been written yet."""
    from tuneline.configs.recipe_file import load_recipe
    from tuneline.stages.fetch.bases import locate_base
    from tuneline.stages.plan.serving import refuse_unservable

    recipe = load_recipe(recipe_file)
    refuse_unservable(recipe)
    locate_base(recipe)
    return recipe


def _write_report(folder: Path, *, quiet: bool) -> None:
    from tuneline.stages.report import write_report

    page = write_report(folder)
    if not quiet:
        console.print(f"report: {page}", soft_wrap=True)


def _exit_by_gate(folder: Path) -> None:
    from tuneline.stages.evaluate.verdicts.gate import require_pass

    require_pass(open_stage(folder, "evaluate"))
