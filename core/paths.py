"""Where runs, models and built tools lie. Each root can be moved by an environment variable."""

import os
import re
from pathlib import Path

from tuneline.core.errors import BadRequest

ROOT = Path(__file__).resolve().parents[1]
"""Tuneline's own folder; a relative path is looked up in the current folder first, then here."""
IMPORTED_FROM = Path(__file__).parents[2]
"""What child processes need on their path to import `tuneline`."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names of runs, models and keys: they become file names."""


def find(path: Path) -> Path:
    """A path as a recipe writes it: absolute, from the current folder, or from Tuneline's own."""
    path = path.expanduser()
    return path if path.is_absolute() or path.exists() else ROOT / path


def runs() -> Path:
    """Folder of all runs; `TUNELINE_RUNS`, else `.runs` in the current folder."""
    return Path(os.environ.get("TUNELINE_RUNS", ".runs")).absolute()


def models() -> Path:
    """Folder of base models, shared by runs; `TUNELINE_MODELS`, else `.models`."""
    return Path(os.environ.get("TUNELINE_MODELS", ".models")).absolute()


def cache() -> Path:
    """Folder of what can be made again (llama.cpp's build); `TUNELINE_CACHE`, else `.cache`."""
    return Path(os.environ.get("TUNELINE_CACHE", ".cache")).absolute()


def policy() -> Path:
    """Folder of what is promoted and whose keys count; `TUNELINE_POLICY`, else `.policy`."""
    return Path(os.environ.get("TUNELINE_POLICY", ".policy")).absolute()


def scores() -> Path:
    """Folder of scheduled evaluations; `TUNELINE_SCORES`, else `.scores`."""
    return Path(os.environ.get("TUNELINE_SCORES", ".scores")).absolute()


def run_folder(name: str) -> Path:
    """The folder of the run called `name`, inside the folder of all runs.

    Raises:
        BadRequest: the name could lead elsewhere.
    """
    if not NAME.fullmatch(name):
        raise BadRequest(
            f"run {name!r}: letters, digits, '.', '_' and '-' only, starting with a letter or digit, 64 at most"
        )
    return runs() / name
