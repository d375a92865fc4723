"""The files of a run that are published, by form, each with its SHA-256 after comparing its content with it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tuneline.configs.publish import Form
from tuneline.configs.recipe import Recipe
from tuneline.core.artifacts import refuse_removed, verify_files
from tuneline.core.errors import NotFound
from tuneline.stages.prepare.prepared_run import TEMPLATE
from tuneline.stages.run_artifacts import open_stage


@dataclass(frozen=True)
class RunFile:
    """A file on this machine that is published under a name."""

    name: str
    path: Path
    sha256: str
    bytes: int


def list_files(run: Path, recipe: Recipe, form: Form) -> list[RunFile]:
    """Return the files of a form: the adapter's with its chat template, the merged checkpoint's, or the GGUF files.

    Raises:
        NotFound: the run lacks the stage or the form. StageFailed: a file's content has changed since it was made.
        StaleArtifact: as `open_stage`.
    """
    if form == "adapter":
        template = list_stage_files(run, "prepare", TEMPLATE)
        files = list_stage_files(run, "train", "adapter")
        names = {file.name for file in files}
        files += [file for file in template if file.name not in names]
    elif form == "merged":
        files = list_stage_files(run, "convert", "merged")
    else:
        files = [
            file for kind in recipe.convert.types for file in list_stage_files(run, "convert", f"tuned-{kind}.gguf")
        ]
    if not files:
        makes = {"merged": "; write `convert: {format: safetensors}` and convert again"}.get(form, "")
        raise NotFound(f"{run.name}: it has no {form} form{makes}")
    return files


def join_forms(run: Path, recipe: Recipe, forms: Sequence[Form]) -> list[RunFile]:
    """Return the files of several forms as one folder.

    A merged checkpoint is in `merged/` beside an adapter: of a folder with both, loaders read one alone.

    Raises:
        As `list_files`.
    """
    files = []
    for form in forms:
        folder = "merged/" if form == "merged" and "adapter" in forms else ""
        files += [replace(file, name=f"{folder}{file.name}") for file in list_files(run, recipe, form)]
    return files


def list_stage_files(run: Path, stage: str, below: str) -> list[RunFile]:
    """Return the files of a finished stage at or below a path; their names are relative to it."""
    artifact = open_stage(run, stage)
    refuse_removed(artifact, below)
    if not artifact.manifest.files_below(below):
        return []
    return [
        RunFile(name.removeprefix(f"{below}/"), artifact.path / name, digest, artifact.manifest.files[name].bytes)
        for name, digest in verify_files(artifact, below).items()
    ]
