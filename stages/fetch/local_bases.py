"""The bases in the model store: listed, verified and removed."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuneline.configs.models import read_shape, registry
from tuneline.core import artifacts, paths
from tuneline.core.errors import BadRequest, NotFound, TunelineError
from tuneline.core.files import sha256
from tuneline.core.pins import read_pin
from tuneline.stages.fetch.disk_space import bytes_in


@dataclass(frozen=True)
class LocalBase:
    """A complete base in the model store."""

    slug: str
    """`owner--name@commit` or `name@hash`: its folder in the model store."""
    known_as: str | None
    """Its name in models.yaml."""
    bytes: int
    last_used: datetime
    """When it was fetched, or a stage last ended on it."""
    runs: tuple[str, ...]
    """Names of the runs made from it."""
    pinned: bool
    """Whether a recipe that names the repository without a commit means this base."""

    @property
    def path(self) -> Path:
        return paths.models() / self.slug


@dataclass(frozen=True)
class _StageUse:
    """A finished stage of a run that used a base."""

    run: str
    base_fingerprint: str
    ended: datetime


def list_local_bases() -> list[LocalBase]:
    """Return all complete bases, sorted by name; partial downloads are left out."""
    uses = list(_stage_uses())
    return [_describe(folder, uses) for folder in _base_folders() if artifacts.is_finished(folder)]


def list_partial_downloads() -> list[tuple[str, int]]:
    """Return (folder name, bytes so far) of each download that is incomplete."""
    return [(folder.name, bytes_in(folder)) for folder in _base_folders() if not artifacts.is_finished(folder)]


def find_local_bases(name: str) -> list[LocalBase]:
    """Return the complete bases that `name` means: a name of models.yaml, a hub id, or a folder name with or without
    its `@commit`.

    Raises:
        NotFound: no such base is in the model store.
    """
    key, slug = registry().find(name), name.replace("/", "--", 1)
    bases = [
        base
        for base in list_local_bases()
        if base.slug == slug or base.slug.startswith(slug + "@") or (key and base.known_as == key)
    ]
    if not bases:
        raise NotFound(f"model {name!r}: not in {paths.models()}; `tuneline models ls` lists what is there")
    return bases


def find_faults(base: LocalBase) -> list[str]:
    """Return what is wrong with a base, one message each: files whose hash differs, and a wrong size in models.yaml."""
    try:
        files = artifacts.open_artifact(base.path).manifest.files
    except TunelineError as error:
        return [str(error)]
    faults = [
        f"{base.path / name}: its SHA-256 has changed; run `tuneline models remove {base.slug}`, then fetch it again"
        for name, file in files.items()
        if sha256(base.path / name) != file.sha256
    ]
    return faults + list(_registry_faults(base.known_as, base.path))


def remove_base(base: LocalBase, force: int, names_by_run: Mapping[str, Sequence[str]]) -> None:
    """Delete a base; `names_by_run` are the names that each promoted run serves or served.

    Raises:
        BadRequest: runs need the base and `force` is 0, or a promoted run needs it and `force` is below 2.
    """
    served_names = sorted({name for run in base.runs for name in names_by_run.get(run, ())})
    if served_names and force < 2:
        raise BadRequest(
            f"{base.slug}: {', '.join(served_names)} is served by a run made from it; "
            "`--force --force` removes it anyway, but the endpoint needs it to restart"
        )
    if base.runs and force < 1:
        raise BadRequest(f"{base.slug}: {', '.join(base.runs)} was made from it; `--force` removes it anyway")
    shutil.rmtree(base.path)


def _base_folders() -> list[Path]:
    return [folder for folder in sorted(paths.models().glob("*@*")) if folder.is_dir()]


def _describe(folder: Path, uses: Sequence[_StageUse]) -> LocalBase:
    manifest = artifacts.read_artifact(folder).manifest
    repo, revision = folder.name.partition("@")[0].replace("--", "/", 1), manifest.made_from.settings["revision"]
    uses_of_base = [use for use in uses if use.base_fingerprint == manifest.fingerprint]
    return LocalBase(
        slug=folder.name,
        known_as=registry().find(repo),
        bytes=sum(file.bytes for file in manifest.files.values()),
        last_used=max([manifest.ended, *(use.ended for use in uses_of_base)]),
        runs=tuple(sorted({use.run for use in uses_of_base})),
        pinned=read_pin(repo) == revision,
    )


def _stage_uses() -> Iterator[_StageUse]:
    """Yield every finished stage of every run that used a base."""
    for file in paths.runs().glob("*/*/" + artifacts.MANIFEST):
        with contextlib.suppress(TunelineError):  # damaged: what it needs cannot be known
            manifest = artifacts.read_artifact(file.parent).manifest
            if fingerprint := manifest.made_from.needs.get("fetch"):
                yield _StageUse(file.parts[-3], fingerprint, manifest.ended)


def _registry_faults(key: str | None, folder: Path) -> Iterator[str]:
    """Yield a fault if models.yaml gives another size than the model's config.json."""
    shape = read_shape(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    if key and shape and shape.text != (registered := registry().shape(key).text):
        yield (
            f"{folder / 'config.json'}: says {shape.text:,} parameters, configs/models.yaml {registered:,} for {key}: "
            "correct the table; plans based on it are wrong"
        )
