"""Where a recipe's base is: a local folder, or a repository of a hub at a commit."""

from pathlib import Path
from typing import Any

from tuneline.configs.models import registry
from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts, paths
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import NotFound
from tuneline.core.paths import resolve
from tuneline.core.pins import read_pin
from tuneline.stages.fetch.folder_source import FolderSource, folder_of, locate_folder
from tuneline.stages.fetch.hub_files import resolve_commit
from tuneline.stages.fetch.hub_source import COMMIT, HUB_ID, HubSource, require_commit
from tuneline.stages.fetch.model_files import read_json


def locate_base(recipe: Recipe) -> HubSource | FolderSource:
    """Return where the recipe's base is; uses no network and writes nothing.

    Raises:
        NotFound: the base is neither `tiny`, nor a folder, nor a hub id.
        BadRecipe: the folder cannot be used as a base, or the hub id has no commit.
    """
    base, revision = recipe.base, recipe.revision
    if _is_on_hub(recipe):
        _refuse_untrainable(base)
        return HubSource(base, require_commit(base, revision))
    return locate_folder(base, revision)


def find_unpinned_base(recipe: Recipe) -> str | None:
    """Return the hub id of the recipe's base if its commit is not known: not stated, and not pinned on this machine."""
    return recipe.base if recipe.revision is None and _is_on_hub(recipe) else None


def _is_on_hub(recipe: Recipe) -> bool:
    is_hub_id = recipe.base != "tiny" and HUB_ID.fullmatch(recipe.base) is not None
    return is_hub_id and (recipe.revision is not None or not folder_of(recipe.base).is_dir())


def locate_model(name: str, revision: str | None = None) -> HubSource | FolderSource:
    """Return what `models download NAME` means: a name of models.yaml, `tiny`, a folder or a hub id.

    A hub id resolves to its pinned commit. If it has none, or if `revision` (a commit, branch or tag) is given, the
    hub is asked.

    Raises:
        NotFound: there is no such model. BadRecipe: the folder cannot be used as a base.
        TunelineError: the hub refused; see `fetch`.
    """
    key = None if name == "tiny" or resolve(Path(name)).is_dir() else registry().find(name)
    repo = (registry().models[key].hub or name) if key else name
    if HUB_ID.fullmatch(repo) and (key or revision or not resolve(Path(repo)).is_dir()):
        _refuse_untrainable(repo)
        full_commit = revision if revision and COMMIT.fullmatch(revision) else None
        pinned = read_pin(repo) if revision is None else None
        return HubSource(repo, full_commit or pinned or resolve_commit(repo, revision))
    return locate_folder(repo, revision)


def open_base(recipe: Recipe) -> Artifact:
    """Return the recipe's base from the model store.

    Raises:
        NotFound: it has not been fetched, or its commit is not known.
    """
    if repo := find_unpinned_base(recipe):
        raise NotFound(
            f"base {repo!r} is not on this machine; `tuneline models download {repo}` fetches it and pins its commit"
        )
    folder = paths.models() / locate_base(recipe).slug
    if not artifacts.is_finished(folder):
        raise NotFound(f"{folder}: base {recipe.base!r} is not fetched yet; run `{_fetch_command(recipe)}` first")
    return artifacts.open_artifact(folder)


def _fetch_command(recipe: Recipe) -> str:
    if isinstance(source := locate_base(recipe), HubSource):
        return f"tuneline models download {source.repo} --revision {source.revision}"
    return "tuneline fetch RECIPE"


def read_base_config(recipe: Recipe) -> dict[str, Any] | None:
    """Return the base's config.json, or None if the base is not on this machine; uses no network."""
    source = locate_base(recipe)
    folder = source.path if isinstance(source, FolderSource) else paths.models() / source.slug
    file = folder / "config.json"
    return read_json(file) if file.exists() else None


def _refuse_untrainable(repo: str) -> None:
    """Raise NotFound if models.yaml says why this repository cannot be used."""
    if reason := registry().explain_missing(repo):
        raise NotFound(f"base: {reason}")
