"""From the name of a run to its folder and its artifacts."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuneline.core.artifacts import Artifact


def find_run(name: str, root: Path | None = None) -> Path:
    """Return the folder of a run below `root`, or below the runs of this machine.

    Raises:
        NotFound: there is no run of this name.
    """
    from tuneline.core import paths
    from tuneline.core.errors import NotFound

    folder = (root or paths.runs()) / paths.run_folder(name).name
    if not (folder / "recipe.json").exists():
        raise NotFound(f"run {name!r}: not in {root or paths.runs()}; `tuneline runs ls` lists the runs")
    return folder


def open_stage(folder: Path, stage: str) -> "Artifact":
    """Return the artifact of a run's finished stage.

    Raises:
        NotFound: the stage is not finished. StageFailed: it is damaged.
        StaleArtifact: it was made from something else than is there now.
    """
    from tuneline.stages.run_artifacts import open_stage

    return open_stage(folder, stage)
