"""The train stage: a LoRA adapter on the base, in 4 bit or not, resumed from the last complete checkpoint."""

from pathlib import Path

from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.artifacts import Artifact
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.train.model.adapter_targets import check_trainable


def train(recipe: Recipe, run: Path) -> Artifact:
    """Return the adapter in `train/adapter/`, in PEFT's format, with the metrics that `fit` returns."""
    base, prepared = open_base(recipe), artifacts.open_artifact(run / "prepare")
    check_trainable(base.path, recipe.train)
    needs = {"fetch": base, "prepare": prepared}
    if init_from := recipe.train.init_from:
        needs["init_from"] = artifacts.open_artifact(run.parent / init_from / "train")
    start = needs["init_from"].path / "adapter" if init_from else None

    def build(folder: Path) -> dict[str, float]:
        from tuneline.stages.train.job import TrainingJob
        from tuneline.stages.train.launcher import launch

        return launch(TrainingJob(recipe, base.path, prepared.path, folder, run, start))

    return artifacts.make(
        run / "train",
        stage_version=1,
        settings=recipe.section("base", "train"),
        needs=needs,
        build=build,
    )
