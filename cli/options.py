"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, YAML.", show_default=False)]
RunName = Annotated[str | None, typer.Option("--run", help="Name of the run; the recipe's, if not given.")]
Only = Annotated[bool, typer.Option("--only", help="Just this stage; those before it must be finished.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the metrics as JSON, progress on stderr.")]
ExistingRun = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run.", show_default=False)]
OnModal = Annotated[bool, typer.Option("--modal", help="There, not on this machine.")]
