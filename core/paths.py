"""The folders of runs, models and built tools. Each can be moved by an environment variable."""

import re
from pathlib import Path

from tuneline.core.environment import is_set, read_variable
from tuneline.core.errors import BadRequest

ROOT = Path(__file__).resolve().parents[1]
"""Tuneline's own folder; a relative path is looked up in the current folder first, then here."""
IMPORTED_FROM = Path(__file__).parents[2]
"""What child processes need on their path to import `tuneline`."""
RECIPE = "recipe.json"
"""The file in a run's folder with the recipe that its artifacts are made from."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names of runs, models and keys; they become file names."""


def resolve(path: Path) -> Path:
    """Return where a path in a recipe points: absolute, in the current folder, else in Tuneline's own folder.

    Raises:
        BadRequest: no file system could have such a path.
    """
    try:
        path = path.expanduser()
        resolved = path if path.exists() or path.is_absolute() else ROOT / path
        resolved.exists()
    except (OSError, RuntimeError) as error:  # too long, no right to look, or `~name` of a user who is not there
        raise BadRequest(f"{str(path)[:80]}: {getattr(error, 'strerror', None) or error}") from None
    return resolved


def runs() -> Path:
    """Return the folder of all runs: `TUNELINE_RUNS`, else `.runs` in the current folder."""
    return _folder("TUNELINE_RUNS", ".runs")


def models() -> Path:
    """Return the folder of base models, which runs share: `TUNELINE_MODELS`, else `.models`."""
    return _folder("TUNELINE_MODELS", ".models")


def cache() -> Path:
    """Return the folder of what can be made again, such as llama.cpp's build: `TUNELINE_CACHE`, else `.cache`."""
    return _folder("TUNELINE_CACHE", ".cache")


def scratch() -> Path | None:
    """Return the folder for large unfinished files, if `TUNELINE_SCRATCH` names one; it may be lost at any time."""
    return _folder("TUNELINE_SCRATCH", "") if is_set("TUNELINE_SCRATCH") else None


def policy() -> Path:
    """Return the folder of promotions and API keys: `TUNELINE_POLICY`, else `.policy`."""
    return _folder("TUNELINE_POLICY", ".policy")


def scores() -> Path:
    """Return the folder of scheduled evaluations: `TUNELINE_SCORES`, else `.scores`."""
    return _folder("TUNELINE_SCORES", ".scores")


def logs() -> Path:
    """Return the folder of the gateway's request log: `TUNELINE_LOGS`, else `.logs`."""
    return _folder("TUNELINE_LOGS", ".logs")


def ui() -> Path:
    """Return the folder of the local page's conversations and ballots: `TUNELINE_UI`, else `.ui`."""
    return _folder("TUNELINE_UI", ".ui")


def _folder(variable: str, default: str) -> Path:
    """Return the folder that an environment variable names, else `default` in the current folder.

    Raises:
        BadRequest: the variable is empty. As a path that would be the current folder, which nobody means by it.
    """
    name = read_variable(variable, default)
    if not name:
        raise BadRequest(f"{variable} is empty: set it to a folder, or unset it for {default} in the current folder")
    return Path(name).absolute()


def run_folder(name: str) -> Path:
    """Return the folder of the run called `name`, inside the folder of all runs.

    Raises:
        BadRequest: the name could lead elsewhere.
    """
    if not NAME.fullmatch(name):
        raise BadRequest(
            f"run {name!r}: letters, digits, '.', '_' and '-' only, starting with a letter or digit, 64 at most"
        )
    return runs() / name
