"""The files of a promoted version: named by SHA-256 when it is promoted, and held against that when it is served."""

import logging
from collections.abc import Mapping
from pathlib import Path

from tuneline.configs.recipe import RECIPE, Recipe
from tuneline.core import artifacts
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import StageFailed, StaleArtifact
from tuneline.stages.evaluate.targets import hash_served_files
from tuneline.stages.run_artifacts import open_run_base

log = logging.getLogger(__name__)


def hash_evaluated_files(run: Path, recipe: Recipe, evaluated: Artifact) -> dict[str, str]:
    """Return path in the run's folder → SHA-256 of what the run serves, after reading it: the files the gate is about.

    Raises:
        StaleArtifact: the gate is about other files. NotFound, StageFailed: as `hash_served_files`.
    """
    remedy = f"remove {evaluated.path} and run `tuneline evaluate {run / RECIPE} --run {run.name}` again"
    named = evaluated.metrics.get("gate", {}).get("files")
    if not named:
        raise StaleArtifact(f"{evaluated.path}: does not record which files it evaluated; {remedy}")
    served = hash_served_files(run, recipe.serve)
    for path in sorted(served.keys() | named.keys()):
        if served.get(path) != named.get(path):
            then, now = _describe(named.get(path)), _describe(served.get(path))
            raise StaleArtifact(f"{run / path}: {then} in the evaluation, {now} now; {remedy}")
    return served


def check_promoted_files(run: Path, name: str, file: str, files: Mapping[str, str]) -> None:
    """Read the files of a version and check that they are those that were promoted as `name`.

    A version of before 2026-12 has no `files`: its model `file` is held against the manifest of the stage that made it,
    with a warning that its hash was never recorded.

    Raises:
        StageFailed: a file is missing, damaged, or another one.
    """
    if not files:
        log.warning(
            "%s: was promoted before hashes were recorded: %s is checked against its manifest only; `tuneline "
            "promote %s --as %s` records its hash",
            *(name, run / file, run.name, name),
        )
    for path, digest in (files or dict.fromkeys([file], "")).items():
        stage, _, below = path.partition("/")
        found = artifacts.verify_files(artifacts.open_artifact(run / stage), below)
        if digest and found.get(below) != digest:
            raise StageFailed(
                f"{run / path} has changed since it was promoted as {name}: {_describe(digest)} then, "
                f"{_describe(found.get(below))} now; `tuneline promote {run.name} --as {name}` promotes it again"
            )


def open_promoted_base(run: Path, recipe: Recipe, name: str, digest: str) -> Path:
    """Return the folder of the base of a promoted adapter, after reading its files.

    `digest` is what the version recorded of the base; "" is not compared.

    Raises:
        StageFailed: it is not the base that was promoted, or damaged. NotFound: it is not here.
    """
    base = open_run_base(recipe, run)
    if digest and base.manifest.digest != digest:
        raise StageFailed(f"{base.path} is not the base that was promoted as {name}; fetch it again, or promote again")
    return base.path


def _describe(digest: str | None) -> str:
    return f"SHA-256 {digest[:16]}…" if digest else "absent"
