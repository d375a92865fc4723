"""The train stage: a LoRA adapter on the base, in 4 bit or not, resumed from the last complete checkpoint."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import BadRecipe
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.run_artifacts import open_stage
from tuneline.stages.train.model.adapter_targets import check_trainable


def train(recipe: Recipe, run: Path) -> Artifact:
    """Return the adapter in `train/adapter/`, in PEFT's format, with the metrics that `fit` returns.

    Raises:
        BadRecipe: the recipe is of an adapter that was made elsewhere, and the run does not have it.
    """
    base = open_base(recipe)
    check_trainable(base.path, recipe.train)
    init_from = recipe.train.init_from
    start = open_stage(run.parent / init_from, "train").path / "adapter" if init_from else None

    def build(folder: Path) -> dict[str, float]:
        from tuneline.stages.train.job import TrainingJob
        from tuneline.stages.train.launcher import launch

        if recipe.train.adopted:
            raise BadRecipe(
                "train.adopted: this run's adapter was made elsewhere; `tuneline adopt` puts it into a new run"
            )
        return launch(TrainingJob(recipe, base.path, run / "prepare", folder, run, start))

    return store_adapter(recipe, run, build)


def store_adapter(recipe: Recipe, run: Path, build: Callable[[Path], Mapping[str, Any]]) -> Artifact:
    """Return the run's `train` artifact, made of base and prepared rows; `build` writes its `adapter/` if it is new."""
    needs = {"fetch": open_base(recipe), "prepare": open_stage(run, "prepare")}
    if init_from := recipe.train.init_from:
        needs["init_from"] = open_stage(run.parent / init_from, "train")
    return artifacts.make(
        run / "train",
        stage_version=1,
        settings=recipe.section("base", "train"),
        needs=needs,
        build=build,
    )
