"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe, a YAML file.", show_default=False)]
RecipeOrBase = Annotated[
    str, typer.Argument(metavar="RECIPE|BASE", help="Recipe, a YAML file; with --data, a base.", show_default=False)
]
DataFile = Annotated[
    Path | None,
    typer.Option("--data", metavar="PATH", help="Data to train BASE on; a recipe for it is written first."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a recipe setting, as in train.rank=8. May be repeated.",
        show_default=False,
    ),
]
RunName = Annotated[str | None, typer.Option("--run", help="Name of the run. Default: the recipe's name.")]
Only = Annotated[bool, typer.Option("--only", help="Run only this stage; the stages before it must be finished.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON; progress goes to stderr.")]
ExistingRun = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run.", show_default=False)]
OnModal = Annotated[bool, typer.Option("--modal", help="On Modal instead of on this machine.")]
