"""Train: a LoRA adapter on the base, in 4 bit or not, resumed from the last whole checkpoint."""

from pathlib import Path

from configs.recipe import Recipe
from stages import artifact
from stages.artifact import Artifact
from stages.fetch import open_base
from stages.train.targets import check


def train(recipe: Recipe, run: Path) -> Artifact:
    """The adapter in `train/adapter/`, in PEFT's format; metrics as in `fit.Result`."""
    base, prepared = open_base(recipe), artifact.open_artifact(run / "prepare")
    check(base.path, recipe.train)
    needs = {"fetch": base, "prepare": prepared}
    if earlier := recipe.train.init_from:
        needs["init_from"] = artifact.open_artifact(run.parent / earlier / "train")
    start = needs["init_from"].path / "adapter" if earlier else None

    def build(folder: Path) -> dict[str, float]:
        from stages.train.launch import launch

        return launch(recipe, base.path, prepared.path, folder, run, start)

    return artifact.make(
        run / "train",
        stage_version=1,
        settings=recipe.section("base", "train"),
        needs=needs,
        build=build,
    )
