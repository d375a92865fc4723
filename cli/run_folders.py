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
        raise NotFound(f"run {name!r}: not in {root or paths.runs()}; `tuneline runs ls` shows those that are")
    return folder


def open_stage(folder: Path, stage: str) -> "Artifact":
    """Return the artifact of a run's finished stage.

    Raises:
        NotFound: the stage is not finished.
    """
    from tuneline.core.artifacts import open_artifact

    return open_artifact(folder / stage)


def read_stage_states(folder: Path) -> dict[str, str]:
    """Return `finished`, `begun` or `open` for each stage of a run; `fetch`, which belongs to no run, is left out."""
    from tuneline.core import artifacts
    from tuneline.stages.line import ORDER

    return {
        stage: "finished"
        if artifacts.is_finished(folder / stage)
        else "begun"
        if (folder / stage / artifacts.DRAFT).exists()
        else "open"
        for stage in ORDER[1:]
    }
