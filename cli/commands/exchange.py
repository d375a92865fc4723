"""Recipes to and from other trainers, and adapters that they made."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from tuneline.cli.consoles import console
from tuneline.cli.options import RecipeFile, RunName, Settings
from tuneline.core.terminal import echo

app = typer.Typer()
PANEL: Any = {"rich_help_panel": "Other trainers"}


@app.command(**PANEL)
def export(
    recipe: RecipeFile,
    to: Annotated[str, typer.Option(help="Trainer: axolotl, llamafactory, unsloth, openai or together.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: NAME-TRAINER.")] = None,
    model: Annotated[str | None, typer.Option(help="Base model, as that trainer names it.")] = None,
    settings: Settings = None,
    run: RunName = None,
) -> None:
    """Prepare the rows and write them, with a configuration, for another trainer."""
    from tuneline.cli.commands.pipeline import check_recipe, run_stages
    from tuneline.configs.recipe_file import load_recipe
    from tuneline.stages.exchange.export import export_run, refuse_unexportable, refuse_used

    loaded = load_recipe(recipe, settings or ())
    refuse_unexportable(loaded, to, model)
    folder = out or Path(f"{loaded.name}-{to}")
    refuse_used(folder)
    check_recipe(loaded)
    run_folder, _ = run_stages(loaded, loaded.name if run is None else run, "prepare")
    written = export_run(loaded, run_folder, to, folder, model)
    for note in written.notes:
        console.print(note, soft_wrap=True)
    echo(f"{folder}: {', '.join(written.files)}\nnext: {written.next_command}")


@app.command(**PANEL)
def migrate(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="Axolotl's or LLaMA-Factory's YAML; OpenAI's job or JSONL.")
    ],
    to: Annotated[Path, typer.Option(help="Recipe file to write.")] = Path("recipe.yaml"),
    base: Annotated[str | None, typer.Option(help="Base to train. Default: the one in CONFIG.")] = None,
) -> None:
    """Convert another trainer's configuration to a recipe, and list every key that was not carried over."""
    from tuneline.stages.exchange.migration import migrate as write_recipe

    migration = write_recipe(config, to, base)
    for title, notes in (("not needed", migration.unneeded), ("NOT carried over", migration.lost)):
        for note in notes:
            console.print(f"{title}: {note.format(config)}", soft_wrap=True, markup=False)
    for dataset, folder in migration.downloads:
        command = f"hf download --repo-type dataset {shlex.quote(dataset)} --local-dir {shlex.quote(folder)}"
        console.print(f"download first, beside the recipe: {command}", soft_wrap=True, markup=False)
    counts = f"{len(migration.carried)} settings carried over, {len(migration.lost)} not"
    echo(f"{to}: {counts}\nnext: tuneline plan {shlex.quote(str(to))}")


@app.command(**PANEL)
def adopt(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of an adapter in PEFT's format.")],
    base: Annotated[str | None, typer.Option(help="Base it was trained on: a name, a folder or a hub id.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of the base on the hub.")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Recipe with data, suites and files to convert to; `train` comes from the adapter."),
    ] = None,
    run: RunName = None,
) -> None:
    """Make a run from an adapter that was trained elsewhere, to convert and evaluate it."""
    from tuneline.cli.commands.pipeline import check_recipe, run_stages
    from tuneline.configs.recipe import RECIPE
    from tuneline.core import paths
    from tuneline.core.progress import Progress, UnsavedEvents
    from tuneline.stages.exchange import adoption
    from tuneline.stages.exchange.adapter_folder import check_fit, read_adapter
    from tuneline.stages.fetch.bases import locate_base
    from tuneline.stages.fetch.model_store import store_base

    read = read_adapter(adapter)
    made = adoption.build_recipe(read, base, revision, recipe, run)
    folder = paths.run_folder(made.name)
    adoption.refuse_used(folder)
    check_recipe(made)
    with Progress(console) as progress:
        stored = store_base(locate_base(made), UnsavedEvents(progress.show, "fetch"))
    if remark := check_fit(read, made, stored):
        console.print(remark, soft_wrap=True, markup=False)
    run_stages(made, made.name, "prepare")
    adoption.adopt(read, made, folder)
    file = shlex.quote(str(folder / RECIPE))
    console.print(f"{made.name}: adopted, {len(read.modules)} modules of rank {made.train.rank}", soft_wrap=True)
    echo(f"next: tuneline run {file} --run {made.name}")
