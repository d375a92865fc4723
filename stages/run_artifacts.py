"""A run's finished stages, opened by whoever reads them: each is made from what is there now, or it is refused.

Stages are looked at from the one that is read up to `prepare`. A stage before it that was removed cannot contradict it;
whoever needs its files opens it too. The base, and the run that training started from, are outside of the run: the
stages compare them themselves.
"""

from collections.abc import Callable
from pathlib import Path

from tuneline.configs.recipe import RECIPE, Recipe
from tuneline.core import artifacts
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import NotFound, StaleArtifact, TunelineError
from tuneline.stages.fetch.bases import open_base

NEEDS = {
    "prepare": (),
    "preflight": ("prepare",),
    "train": ("prepare",),
    "convert": ("prepare", "train"),
    "evaluate": ("prepare", "convert"),
}
"""The stages of the same run from whose artifacts each stage is made."""


def open_stage(run: Path, stage: str) -> Artifact:
    """Return a run's finished stage, after checking its files' sizes, and that it was made from what is there now.

    Raises:
        NotFound: it is not finished. StageFailed: it is damaged.
        StaleArtifact: it, or a stage before it, was made from something else than is there now.
    """
    artifacts.open_artifact(run / stage)
    return read_stage(run, stage)


def read_stage(run: Path, stage: str) -> Artifact:
    """Return what `open_stage` does, without a look at the stage's files.

    Raises:
        As `open_stage`.
    """
    artifact = artifacts.read_artifact(run / stage)
    needed = {name: read_stage(run, name) for name in NEEDS[stage] if artifacts.is_finished(run / name)}
    remedy = f"remove {run / stage} and run `tuneline {stage} {run / RECIPE} --run {run.name}` again"
    artifacts.refuse_if_from_others(artifact, needed, remedy)
    base = artifact.manifest.made_from.needs.get("fetch")
    for name, other in needed.items():
        if base and base != other.manifest.made_from.needs.get("fetch", base):
            raise StaleArtifact(f"{run / stage} was made with another base than {run / name}; {remedy}")
    return artifact


def open_run_base(recipe: Recipe, run: Path) -> Artifact:
    """Return the base that the run's adapter was trained on, after reading its files.

    Raises:
        NotFound: it is not fetched, or the run is not trained. StageFailed: a file is damaged.
        StaleArtifact: the adapter was trained on another base.
    """
    base = open_base(recipe)
    remedy = f"remove {run / 'train'} and run `tuneline train {run / RECIPE} --run {run.name}` again"
    artifacts.refuse_if_from_others(open_stage(run, "train"), {"fetch": base}, remedy)
    artifacts.verify_files(base)
    return base


def verify_stage(run: Path, stage: str) -> Artifact:
    """Return what `open_stage` does, after reading all its files, large ones once, and comparing their hashes.

    Raises:
        As `open_stage`.
    """
    artifact = open_stage(run, stage)
    artifacts.verify_files(artifact)
    return artifact


def find_problems(run: Path, check: Callable[[Path, str], Artifact]) -> dict[str, str]:
    """Return finished stage → why it is not to be relied on, for those that `check` refuses.

    `check` is `read_stage`, `open_stage` or `verify_stage`: by manifests alone, by sizes, or by content.
    """
    problems = {}
    for stage in NEEDS:
        try:
            check(run, stage)
        except NotFound:
            continue
        except TunelineError as error:
            problems[stage] = str(error)
    return problems
