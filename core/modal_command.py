"""The command of Modal's client that runs a pipeline there."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from tuneline.core.paths import ROOT


def modal_command(verb: str, recipe_file: Path | str, run: str, settings: Sequence[str] = ()) -> str:
    """Return the command that runs a verb on Modal for this run, from the current folder.

    `settings` are those of `--set`. `app.py` is only found in Tuneline's own folder; the module is in any.
    """
    function = [f"app.py::{verb}"] if Path.cwd() == ROOT else ["-m", f"tuneline.app::{verb}"]
    words = ["modal", "run", *function, "--recipe", str(recipe_file), "--run", run]
    return shlex.join(words + (["--set", shlex.join(settings)] if settings else []))
