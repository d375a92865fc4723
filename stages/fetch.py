"""Fetch: a base model in `<models>/<name>@<revision>/`, complete and verified. Shared by runs.

`base` is `tiny` (which comes with Tuneline), a local folder, or a hub id with a pinned revision. Only safetensors are
taken: pickles can run code.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.recipe import ROOT, Recipe
from stages import artifact, paths
from stages.artifact import Artifact
from stages.errors import BadRecipe, NotFound, StageFailed
from stages.events import Events

TINY = ROOT / "data" / "tiny"
TAKEN = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer*", "*.jinja")
NEEDED = ("config.json", "tokenizer.json")
FAMILIES = ("llama", "llama4", "llama4_text", "mistral")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class _Origin:
    """Where a base comes from: its slug, revision, and what brings its files into a folder."""

    slug: str
    revision: str
    bring: Callable[[Path, Events], None]

    @property
    def path(self) -> Path:
        return paths.models() / f"{self.slug}@{self.revision[:12]}"


def fetch(recipe: Recipe, run: Path) -> Artifact:
    """The base's folder, as transformers reads it.

    Raises:
        NotFound, BadRecipe: there is no such base, or its revision is not pinned. StageFailed: it came damaged.
    """
    origin = _origin(recipe)
    return artifact.make(
        origin.path,
        stage="fetch",
        stage_version=1,
        settings={"base": origin.slug, "revision": origin.revision},
        needs={},
        build=lambda folder: _build(origin, folder, Events(run, "fetch")),
    )


def open_base(recipe: Recipe) -> Artifact:
    """The fetched base of a recipe; `NotFound` if it is not here yet."""
    origin = _origin(recipe)
    if not artifact.finished(origin.path):
        raise NotFound(f"base {recipe.base!r} is not in {paths.models()} yet; run `tuneline fetch RECIPE` first")
    return artifact.open_artifact(origin.path)


def check_base(recipe: Recipe) -> None:
    """Refuse a base that cannot be fetched, before anything is written; asks no network."""
    _origin(recipe)


def _origin(recipe: Recipe) -> _Origin:
    if recipe.base == "tiny":
        return _local("tiny", TINY)
    folder = Path(recipe.base).expanduser()
    if folder.is_dir():
        return _local(re.sub(r"[^\w.-]", "-", folder.resolve().name), folder)
    if not HUB_ID.fullmatch(recipe.base) or recipe.base.startswith("."):
        raise NotFound(f"base: {recipe.base!r}: neither `tiny`, nor a folder here, nor a hub id such as owner/name")
    if not recipe.revision or not COMMIT.fullmatch(recipe.revision):
        raise BadRecipe(
            f"revision: {recipe.revision!r}: {recipe.base} must be pinned to a commit (40 hex digits); "
            f"the page https://huggingface.co/{recipe.base}/commits/main lists them"
        )
    hub_id, revision = recipe.base, recipe.revision
    return _Origin(hub_id.replace("/", "--"), revision, lambda folder, events: _download(hub_id, revision, folder))


def _local(slug: str, source: Path) -> _Origin:
    files = _taken(source)
    names = {file.name for file in files}
    if missing := [name for name in NEEDED if name not in names]:
        raise BadRecipe(
            f"base: {source}: {', '.join(missing)} is missing; a folder that `save_pretrained` wrote has it"
        )
    if not any(name.endswith(".safetensors") for name in names):
        raise BadRecipe(f"base: {source}: no *.safetensors; pickles are not taken, save it again with safetensors")
    family = json.loads((source / "config.json").read_text()).get("model_type")
    if family not in FAMILIES:
        raise BadRecipe(f"base: {source}/config.json: model_type {family!r}; Tuneline trains {', '.join(FAMILIES)}")
    digest = hashlib.sha256("".join(f"{file.name}\0{artifact.sha256(file)}\n" for file in files).encode()).hexdigest()

    def bring(folder: Path, events: Events) -> None:
        for done, file in enumerate(files, 1):
            shutil.copyfile(file, folder / file.name)
            events.progress(done, len(files), "files", file.name)

    return _Origin(slug, digest, bring)


def _taken(folder: Path) -> list[Path]:
    return sorted({file for pattern in TAKEN for file in folder.glob(pattern) if file.is_file()})


def _build(origin: _Origin, folder: Path, events: Events) -> Mapping[str, Any]:
    origin.bring(folder, events)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # what the hub's client keeps to go on with a download
    return {"bytes": sum(file.stat().st_size for file in _taken(folder))}


def _download(hub_id: str, revision: str, folder: Path) -> None:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    page = f"https://huggingface.co/{hub_id}"
    try:
        about = HfApi().model_info(hub_id, revision=revision, files_metadata=True)
        listed = {file.rfilename: file for file in about.siblings or []}
        if not any(name.endswith(".safetensors") for name in listed):
            raise BadRecipe(
                f"base: {hub_id}: it has no *.safetensors; pickles are not taken, choose a repository with them"
            )
        snapshot_download(hub_id, revision=revision, local_dir=folder, allow_patterns=list(TAKEN))
    except GatedRepoError:
        raise NotFound(f"base: {hub_id} is gated; accept its terms at {page}, set HF_TOKEN, and run again") from None
    except RepositoryNotFoundError:
        raise NotFound(
            f"base: {hub_id}@{revision}: no such repository, or HF_TOKEN may not read it; see {page}"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise StageFailed(
            f"base: {hub_id}: the download broke off ({reason}); the same command goes on with it"
        ) from None
    for file in _taken(folder):
        lfs = listed[file.name].lfs if file.name in listed else None
        if lfs and artifact.sha256(file) != lfs.sha256:
            file.unlink()
            raise StageFailed(
                f"base: {hub_id}: {file.name} is not what the hub says (SHA-256); run again to fetch it anew"
            )
