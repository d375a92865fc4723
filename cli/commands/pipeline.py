"""The pipeline and its stages, and the report and model card of a run."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tuneline.cli.consoles import console, errors_console
from tuneline.cli.model_server import start_server
from tuneline.cli.options import AsJson, DataFile, ExistingRun, Only, RecipeFile, RecipeOrBase, RunName, Settings
from tuneline.cli.run_folders import find_run, open_stage
from tuneline.core.terminal import echo

if TYPE_CHECKING:
    from tuneline.configs.recipe import Recipe
    from tuneline.core.artifacts import Artifact

app = typer.Typer()
PANEL: Any = {"rich_help_panel": "Pipeline"}


@app.command(**PANEL)
def run(
    recipe: RecipeOrBase,
    data: DataFile = None,
    settings: Settings = None,
    run: RunName = None,
    as_json: AsJson = False,
) -> None:
    """Run all stages: fetch, prepare, train, convert, evaluate; then write the report."""
    file = find_recipe(recipe, data)
    folder = _run_pipeline(file, run, "evaluate", settings, only=False, as_json=as_json)
    if as_json:
        _write_report(folder, quiet=True)
        _exit_by_gate(folder)
    else:
        print_results(folder, file, settings or ())


def find_recipe(recipe_or_base: str, data: Path | None) -> Path:
    """Return the recipe's file; with data, the one that is written for it and the base of that name."""
    from tuneline.cli.starter_recipe import write_recipe

    return write_recipe(recipe_or_base, data) if data else Path(recipe_or_base)


@app.command(**PANEL)
def fetch(
    recipe: RecipeFile, settings: Settings = None, run: RunName = None, only: Only = False, as_json: AsJson = False
) -> None:
    """Download and verify the base model."""
    _run_pipeline(recipe, run, "fetch", settings, only=only, as_json=as_json)


@app.command(**PANEL)
def prepare(
    recipe: RecipeFile, settings: Settings = None, run: RunName = None, only: Only = False, as_json: AsJson = False
) -> None:
    """Build training and validation rows from the data."""
    _run_pipeline(recipe, run, "prepare", settings, only=only, as_json=as_json)


@app.command(**PANEL)
def preflight(recipe: RecipeFile, settings: Settings = None, run: RunName = None, as_json: AsJson = False) -> None:
    """Measure three training steps and estimate the run's cost; exit 2 if above max_cost_usd."""
    from tuneline.configs.recipe_file import load_recipe
    from tuneline.stages.preflight import format_comparison, refuse_over_budget

    folder = _run_pipeline(recipe, run, "preflight", settings, only=False, as_json=as_json)
    if not as_json:
        console.print(format_comparison(folder), soft_wrap=True)
    refuse_over_budget(load_recipe(recipe, settings or ()), folder)


@app.command(**PANEL)
def train(
    recipe: RecipeOrBase,
    data: DataFile = None,
    settings: Settings = None,
    run: RunName = None,
    only: Only = False,
    as_json: AsJson = False,
) -> None:
    """Train an adapter, or all weights."""
    _run_pipeline(find_recipe(recipe, data), run, "train", settings, only=only, as_json=as_json)


@app.command(**PANEL)
def convert(
    recipe: RecipeFile, settings: Settings = None, run: RunName = None, only: Only = False, as_json: AsJson = False
) -> None:
    """Merge the adapter, convert to GGUF and quantize."""
    _run_pipeline(recipe, run, "convert", settings, only=only, as_json=as_json)


@app.command(**PANEL)
def evaluate(
    recipe: RecipeFile, settings: Settings = None, run: RunName = None, only: Only = False, as_json: AsJson = False
) -> None:
    """Evaluate base and tuned models on the suites; exit 3 if the gate fails."""
    folder = _run_pipeline(recipe, run, "evaluate", settings, only=only, as_json=as_json)
    _exit_by_gate(folder)


@app.command(**PANEL)
def demo(run: RunName = None) -> None:
    """Run the demo recipe, then ask the resulting model one question."""
    from tuneline.core.paths import ROOT

    recipe = ROOT / "configs/recipes/demo.yaml"
    folder = _run_pipeline(recipe, run, "evaluate", None, only=False, as_json=False)
    print_results(folder, recipe, ask="Send Maria a WhatsApp saying the keys are ready")


@app.command(**PANEL)
def report(run: ExistingRun) -> None:
    """Write the run's report as one HTML file."""
    _write_report(find_run(run), quiet=False)


@app.command(**PANEL)
def card(run: ExistingRun) -> None:
    """Write the model card, and the notice required by the base's licence."""
    from tuneline.stages.report.model_card import write_card

    for file in write_card(find_run(run)):
        console.print(str(file), soft_wrap=True)


def _run_pipeline(
    recipe_file: Path, name: str | None, until: str, settings: list[str] | None, *, only: bool, as_json: bool
) -> Path:
    """Run the pipeline up to stage `until` with live progress, and return the run's folder.

    The recipe is checked first; what will run is printed before it starts. `as_json` prints the metrics of the last
    stage on stdout and everything else on stderr.

    Raises:
        NotFound: `only` is set and a stage before `until` is not finished.
    """
    recipe = _load_checked_recipe(recipe_file, settings or ())
    folder, last = run_stages(recipe, recipe.name if name is None else name, until, only=only, quiet=as_json)
    if as_json:
        echo(json.dumps(last.metrics))
    return folder


def run_stages(
    recipe: "Recipe", name: str, until: str, *, only: bool = False, quiet: bool = False
) -> "tuple[Path, Artifact]":
    """Run a checked recipe's stages in the run `name` with live progress; return its folder and the last artifact.

    `quiet` prints everything on stderr.

    Raises:
        NotFound: `only` is set and a stage before `until` is not finished. BadRequest: a hosted target has no key.
    """
    from tuneline.cli.views.pipeline import render_stages_to_run
    from tuneline.core import paths
    from tuneline.core.errors import NotFound
    from tuneline.core.locks import pipeline_lock
    from tuneline.core.progress import Progress
    from tuneline.engines.llama_cpp.build import find_llama_cpp
    from tuneline.stages.evaluate.clients.external_targets import refuse_missing_keys
    from tuneline.stages.line import describe_stages, run_line, stages_up_to, subprocess_runner
    from tuneline.stages.runs.failures import recorded_failure
    from tuneline.stages.runs.incomplete import find_incomplete, reopen_incomplete

    folder = paths.run_folder(name)
    if until in ("convert", "evaluate"):
        find_llama_cpp()  # a missing llama.cpp is an error now, not after the training
    stages = stages_up_to(until)
    states = describe_stages(recipe, folder, stages)
    states |= dict.fromkeys(find_incomplete(folder, stages), "to do")
    if only and (missing := [stage for stage in list(states)[:-1] if states[stage] != "finished"]):
        raise NotFound(
            f"--only: {until} needs {missing[-1]}, which is not finished; run the command without --only to include it"
        )
    if states.get("evaluate", "finished") != "finished":
        refuse_missing_keys(recipe.evaluate.targets)
    out = errors_console if quiet else console
    out.print(render_stages_to_run(folder.name, {until: states[until]} if only else states), soft_wrap=True)
    with contextlib.ExitStack() as stack:
        if set(states.values()) != {"finished"}:  # a finished run is not written to
            stack.enter_context(pipeline_lock(folder, until))
            stack.enter_context(recorded_failure(folder))
            reopen_incomplete(folder, stages[-1:] if only else stages)
        progress = stack.enter_context(Progress(out))
        artifacts = run_line(recipe, until, subprocess_runner(recipe, folder, progress.show), only=only)
    return folder, artifacts[-1]


def _load_checked_recipe(recipe_file: Path, settings: Sequence[str]) -> "Recipe":
    """Return the recipe after checking it, its files and its base; nothing has been written yet."""
    from tuneline.configs.recipe_file import load_recipe

    recipe = load_recipe(recipe_file, settings)
    check_recipe(recipe)
    return recipe


def check_recipe(recipe: "Recipe") -> None:
    """Refuse what is known before anything runs: the base is not there, its form cannot be served, and the like."""
    from tuneline.stages.early_checks import refuse_early
    from tuneline.stages.fetch.bases import locate_base
    from tuneline.stages.plan.serving import refuse_unservable

    refuse_unservable(recipe)
    locate_base(recipe)
    refuse_early(recipe)


def print_results(folder: Path, recipe_file: Path, settings: Sequence[str] = (), ask: str | None = None) -> None:
    """Print scoreboard, gate, the report's path, the answer to `ask`, and next commands; exit 3 if the gate says no.

    `settings` are those that the run was started with, on top of the recipe.
    """
    from tuneline.cli.chat import Conversation, open_run_model
    from tuneline.cli.views.pipeline import render_next_steps
    from tuneline.cli.views.scoreboard import render_gate, render_scoreboard
    from tuneline.core.errors import GateFailed
    from tuneline.stages.evaluate.verdicts.gate import gate_of_run, name_outcome
    from tuneline.stages.evaluate.verdicts.reason import PASS

    evaluated = open_stage(folder, "evaluate")
    gate = gate_of_run(folder, evaluated.metrics["gate"])
    console.print(render_scoreboard(evaluated, open_stage(folder, "convert")))
    console.print(render_gate(gate))
    _write_report(folder, quiet=False)
    if ask:
        console.print(f"\nyou   {ask}", soft_wrap=True)
        with start_server(folder) as server:
            Conversation(open_run_model(server.base_url, folder)).ask(ask)
    passed = name_outcome(gate) == PASS
    console.print("", render_next_steps(folder.name, recipe_file, settings, passed=passed), sep="\n", soft_wrap=True)
    if not gate["passed"]:
        raise typer.Exit(GateFailed.exit_code)


def _write_report(folder: Path, *, quiet: bool) -> None:
    from tuneline.stages.report import write_report

    page = write_report(folder)
    if not quiet:
        console.print(f"report: {page}", soft_wrap=True)


def _exit_by_gate(folder: Path) -> None:
    from tuneline.stages.evaluate.verdicts.gate import require_pass

    require_pass(open_stage(folder, "evaluate"))
