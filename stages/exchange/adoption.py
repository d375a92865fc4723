"""An adapter made elsewhere becomes a run, whose later stages work as with one that was trained here."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import RECIPE, Recipe
from tuneline.configs.recipe_file import load_recipe, resolve_base
from tuneline.configs.recipe_settings import read_settings, run_name
from tuneline.configs.user_paths import LocatedText, locate_folder
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import BadRequest
from tuneline.core.files import write_atomic
from tuneline.core.locks import run_lock
from tuneline.core.paths import ROOT
from tuneline.stages.checkpoints.base_config import read_config
from tuneline.stages.checkpoints.lora_adapter import CONFIG, WEIGHTS
from tuneline.stages.exchange.adapter_folder import ForeignAdapter, normalize_settings
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.train import store_adapter

QUESTIONS = ROOT / "data/questions.jsonl"
"""Rows on which an adapter's files are compared if the user names none."""


def build_recipe(
    adapter: ForeignAdapter, base: str | None, revision: str | None, recipe_file: Path | None, name: str | None
) -> Recipe:
    """Return the recipe of an adapter's run: that of `recipe_file`, or the shipped questions and no suites.

    Raises:
        BadRequest: no base, or another one than the recipe's. BadRecipe: the recipe, or the base's name.
    """
    train = adapter.to_train()
    if recipe_file:
        recipe = load_recipe(recipe_file)
        if base and base not in (recipe.base, read_settings(recipe_file).get("base")):
            raise BadRequest(f"--base {base}: {recipe_file} has base {recipe.base}; give one of them")
        return recipe.model_copy(update={"train": train, "name": name or recipe.name})
    if not base:
        raise BadRequest("--base: name the base that the adapter was trained on, or a --recipe that does")
    settings = {
        "name": name or run_name(adapter.folder.absolute()),
        "base": locate_folder(LocatedText(base, Path.cwd())),
    }
    settings |= {"revision": revision} if revision else {}
    recipe = resolve_base(Recipe.model_validate(settings | {"data": {"sources": [{"path": QUESTIONS}]}}))
    return recipe.model_copy(update={"train": train})


def refuse_used(run: Path) -> None:
    """Raise BadRequest if there is a run of this name, whose stages another adapter would contradict."""
    if (run / RECIPE).exists():
        raise BadRequest(f"{run}: is a run already; name another with --run NEW")


def adopt(adapter: ForeignAdapter, recipe: Recipe, run: Path) -> Artifact:
    """Return the run's `train` artifact with the adapter in it; the run is prepared, and `check_fit` has passed."""
    base = open_base(recipe)

    def build(folder: Path) -> Mapping[str, Any]:
        target = folder / "adapter"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(adapter.folder / WEIGHTS, target / WEIGHTS)
        settings = normalize_settings(adapter, recipe, int(read_config(base.path)["num_hidden_layers"]))
        write_atomic(target / CONFIG, json.dumps(settings, indent=1, sort_keys=True))
        return {"adopted": True, "trained_on": adapter.trained_on, "modules": len(adapter.modules)}

    with run_lock(run, "adopt"):
        write_atomic(run / RECIPE, recipe.model_dump_json(indent=1))
        return store_adapter(recipe, run, build)
