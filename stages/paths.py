"""Where runs, models and built tools lie. Each root can be moved by an environment variable."""

import os
from pathlib import Path

from configs.section import NAME
from stages.errors import BadRequest


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
