"""The fetch stage: the base model as a plain Hugging Face folder in the model store, shared by all runs.

A base is `tiny` (shipped in data/tiny), a local folder, or a hub id with the commit it is pinned to. Only weights in
safetensors, JSON and Jinja files are fetched: no pickles and no code. Artifacts are named `tiny@<hash>` or
`owner--name@<commit>`.
"""

from pathlib import Path

from tuneline.configs.recipe import Recipe
from tuneline.core.artifacts import Artifact
from tuneline.core.events import Events
from tuneline.stages.fetch.bases import locate_base
from tuneline.stages.fetch.model_store import store_base


def fetch(recipe: Recipe, run: Path) -> Artifact:
    """Return the recipe's base in the model store, fetching it if needed; an interrupted fetch is resumed.

    Raises:
        NotFound: there is no such base.
        BadRecipe: the base is not a model that Tuneline can train, or it is not pinned.
        BadRequest: the hub requires a token, or another one.
        StageFailed: the hub cannot be reached, the disk is full, or a file's hash is not the one the hub recorded.
    """
    return store_base(locate_base(recipe), Events(run, "fetch"))
