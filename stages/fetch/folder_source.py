"""A base in a local folder, identified by its content."""

import difflib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from tuneline.configs.models import registry
from tuneline.core.errors import BadRecipe, NotFound
from tuneline.core.hash_cache import cached_sha256
from tuneline.core.paths import ROOT, resolve
from tuneline.core.user_files import read_text
from tuneline.stages.fetch.hub_source import COMMIT
from tuneline.stages.fetch.model_files import PICKLES, fetched_files, matches, pickle_remedy, refuse_unusable

TINY = ROOT / "data" / "tiny"


@dataclass(frozen=True)
class FolderSource:
    """A folder on this machine, identified by its content."""

    name: str
    path: Path

    @property
    def content(self) -> str:
        """SHA-256 over the names and hashes of the files that are fetched."""
        lines = [f"{f.name}\0{cached_sha256(f)}\n" for f in fetched_files(self.path)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def settings(self) -> dict[str, str]:
        """The settings that enter the artifact's fingerprint."""
        return {"base": self.name, "revision": self.content}

    @property
    def slug(self) -> str:
        """Name of its folder in the model store."""
        return f"{self.name}@{self.content[:12]}"


def locate_folder(base: str, revision: str | None) -> FolderSource:
    """Return the local folder that `base` names: a path, or `tiny`.

    Raises:
        NotFound: there is no such folder.
        BadRecipe: the folder cannot be used as a base, or it was given a revision.
    """
    folder = folder_of(base)
    if revision is not None:
        raise BadRecipe(
            f"revision: {revision!r}: only applies to a hub id (owner/name), but base is {base!r}; remove it"
        )
    if folder.is_file() and matches(folder.name, PICKLES):
        raise BadRecipe(pickle_remedy(str(folder), folder.name))
    if not folder.is_dir():
        raise NotFound(_no_such_base(base))
    name = "tiny" if base == "tiny" else _slug_name(folder)
    folder = _snapshot_of(folder)
    refuse_unusable(folder)
    return FolderSource(name, folder)


def folder_of(base: str) -> Path:
    """Return the path that `base` would have as a local folder, whether or not it exists."""
    return TINY if base == "tiny" else resolve(Path(base))


def _snapshot_of(folder: Path) -> Path:
    """Return the folder itself; of a hub cache's `models--owner--name`, the snapshot that its main branch is at.

    Raises:
        BadRecipe: it has several snapshots and no main branch, or none.
    """
    snapshots = folder / "snapshots"
    if (folder / "config.json").exists() or not snapshots.is_dir():
        return folder
    main = folder / "refs" / "main"
    commit = read_text(main, BadRecipe, 1000).strip() if main.is_file() else ""
    if COMMIT.fullmatch(commit) and (snapshots / commit).is_dir():
        return snapshots / commit
    commits = sorted(snapshot.name for snapshot in snapshots.iterdir() if snapshot.is_dir())
    if len(commits) != 1:
        raise BadRecipe(f"base: {folder}: a hub cache with {len(commits)} snapshots; name one: {snapshots}/COMMIT")
    return snapshots / commits[0]


def _no_such_base(base: str) -> str:
    if base == "tiny":
        return f"base: 'tiny': {TINY} is missing; restore it with `git checkout -- data/tiny`"
    if reason := registry().explain_missing(base):
        return f"base: {reason}"
    close = difflib.get_close_matches(base.lower(), registry().models, 1)
    hint = f"did you mean {close[0]!r}?" if close else "`tuneline models ls` lists the known names"
    return f"base: {base!r}: neither a name of configs/models.yaml, nor a folder, nor a hub id (owner/name); {hint}"


def _slug_name(folder: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", folder.resolve().name).lstrip(".-_")[:64] or "folder"
