"""Train: a LoRA adapter on the base, in 4 bit or not, resumed from the last whole checkpoint."""

from pathlib import Path

from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.artifacts import Artifact
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.train.model.adapter_targets import check


def train(recipe: Recipe, run: Path) -> Artifact:
    """The adapter in `train/adapter/`, in PEFT's format; metrics as in `fit.Result`."""
    base, prepared = open_base(recipe), artifacts.open_artifact(run / "prepare")
    check(base.path, recipe.train)
    needs = {"fetch": base, "prepare": prepared}
    if earlier := recipe.train.init_from:
        needs["init_from"] = artifacts.open_artifact(run.parent / earlier / "train")
    start = needs["init_from"].path / "adapter" if earlier else None

    def build(folder: Path) -> dict[str, float]:
        from tuneline.stages.train.distributed.launcher import launch

        return launch(recipe, base.path, prepared.path, folder, run, start)

    return artifacts.make(
        run / "train",
        stage_version=1,
        settings=recipe.section("base", "train"),
        needs=needs,
        build=build,
    )
