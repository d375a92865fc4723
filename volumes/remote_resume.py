"""A run on Modal continued from there: recipe and data come from the Volumes, not from this machine."""

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import modal

from tuneline.configs.recipe import RECIPE, Recipe
from tuneline.configs.recipe_file import replace_paths
from tuneline.core.errors import BadRecipe, NotFound
from tuneline.core.modal_command import modal_command
from tuneline.core.paths import ROOT
from tuneline.core.redaction import MASK
from tuneline.stages.line import stages_up_to
from tuneline.volumes.mounts import MOUNTS, VOLUMES
from tuneline.volumes.remote import explained_errors


def resume_run(run: str, until: str, settings: Sequence[str]) -> int:
    """Continue a run on Modal up to a stage, as `modal run app.py::STAGE` with its recipe does; return the exit code.

    `settings` (`KEY=VALUE`) are set on top of the recipe.

    Raises:
        NotFound: there is no such run. BadRecipe: its recipe had credentials, which are not kept.
        BadRequest: there is no such stage.
    """
    verb = stages_up_to(until)[-1]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / RECIPE
        file.write_text(_fetch_recipe(run, Path(folder)).model_dump_json(), encoding="utf-8")
        words = [sys.executable, "-m", "modal", "run", f"app.py::{verb}", "--recipe", str(file), "--run", run]
        words += ["--set", shlex.join(settings)] if settings else []
        return subprocess.run(words, cwd=ROOT, check=False).returncode


def _fetch_recipe(run: str, folder: Path) -> Recipe:
    """Return the recipe of a run on Modal, with its files in `folder`: what the command uploads again is there."""
    with explained_errors():
        try:
            content = b"".join(VOLUMES["runs"].read_file(f"{run}/{RECIPE}"))
        except (FileNotFoundError, modal.exception.NotFoundError):
            raise NotFound(f"{run}: no such run on Modal; `tuneline runs ls --modal` lists the runs") from None
    if MASK.encode() in content:
        raise BadRecipe(
            f"{run}/{RECIPE}: an address in it had credentials, which are not kept; "
            f"`{modal_command('pipeline', 'FILE', run)}` continues it, where FILE is your own recipe"
        )
    return replace_paths(Recipe.model_validate_json(content), lambda path: _fetch_file(path, folder))


def _fetch_file(path: Path, folder: Path) -> Path:
    """Return where a file or folder of the data Volume is now, after fetching it with what it includes."""
    if not path.is_relative_to(MOUNTS["data"]):
        return path
    below = path.relative_to(MOUNTS["data"])
    data = VOLUMES["data"]
    for entry in data.iterdir(f"/{below.parts[0]}", recursive=True):
        local = folder / entry.path
        if entry.type == modal.types.FileEntryType.FILE and not local.exists():
            local.parent.mkdir(parents=True, exist_ok=True)
            with local.open("wb") as out:
                data.read_file_into_fileobj(entry.path, out)
    return folder / below
