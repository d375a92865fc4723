"""Train: a LoRA adapter on the base, in 4 bit or not, resumed from the last whole checkpoint."""

from pathlib import Path

from configs.recipe import Recipe
from stages import artifact
from stages.artifact import Artifact
from stages.events import Events
from stages.fetch import open_base


def train(recipe: Recipe, run: Path) -> Artifact:
    """The adapter in `train/adapter/`, in PEFT's format; metrics as in `fit.Result`."""
    base, prepared = open_base(recipe), artifact.open_artifact(run / "prepare")

    def build(folder: Path) -> dict[str, float]:
        from stages.train.fit import fit

        return fit(recipe, base.path, prepared.path, folder, Events(run, "train"))

    return artifact.make(
        run / "train",
        stage_version=1,
        settings=recipe.section("base", "train"),
        needs={"fetch": base, "prepare": prepared},
        build=build,
    )
