"""The model store: one folder per base, shared by all runs, filled by a download or a copy."""

import fcntl
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuneline.configs.models import read_shape, registry
from tuneline.core import artifacts, paths
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import StageFailed
from tuneline.core.events import Events
from tuneline.core.files import sha256
from tuneline.core.hash_cache import cached_sha256
from tuneline.core.pins import pin
from tuneline.stages.fetch.disk_space import explained_disk_full, refuse_if_full
from tuneline.stages.fetch.downloads import PARTIAL_FILES, download
from tuneline.stages.fetch.folder_source import FolderSource
from tuneline.stages.fetch.hub_files import HubFiles
from tuneline.stages.fetch.hub_source import HubSource
from tuneline.stages.fetch.model_files import (
    ADAPTER_CONFIG,
    fetched_files,
    is_fetched,
    read_json,
    refuse_family,
    refuse_incomplete,
    refuse_unusable,
)

STAGE_VERSION = 1


def store_base(source: HubSource | FolderSource, events: Events) -> Artifact:
    """Return a base as an artifact of the model store, downloading or copying it if needed.

    A hub repository is pinned to this commit if it has no pin yet.

    Raises:
        As `fetch`.
    """
    with _locked(paths.models(), source.slug, events) as folder:
        hashes: dict[str, str] = {}
        build = _no_build if artifacts.is_finished(folder) else _builder(source, events, hashes)
        artifact = artifacts.make(
            folder,
            stage="fetch",
            stage_version=STAGE_VERSION,
            settings=source.settings,
            needs={},
            build=build,
            hashed=hashes,
        )
    if isinstance(source, HubSource):
        pin(source.repo, source.revision)
    return artifact


@contextmanager
def _locked(models: Path, slug: str, events: Events) -> Iterator[Path]:
    """Hold the lock of one base and yield its folder."""
    # Runs share bases, so the lock of a run does not protect them. flock ends with its process, however that ends.
    models.mkdir(parents=True, exist_ok=True)
    with (models / f".{slug}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            events.emit("warning", text=f"another run is fetching {slug}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield models / slug


def _builder(
    source: HubSource | FolderSource, events: Events, hashes: dict[str, str]
) -> Callable[[Path], Mapping[str, Any]]:
    """Return the function that fills the artifact's folder.

    The hub is asked first, so that a refusal leaves nothing behind. The SHA-256 of files that the download has
    computed are added to `hashes`.
    """
    if isinstance(source, FolderSource):
        return lambda folder: _copy(source.path, folder, events)
    files = HubFiles.request(source, is_fetched)
    refuse_incomplete(source.slug, files.names)
    refuse_family(f"base: {source.repo}: model_type", files.family)
    return lambda folder: _download(files, folder, events, hashes)


def _no_build(folder: Path) -> Mapping[str, Any]:
    raise AssertionError(f"{folder} is finished")


def _download(files: HubFiles, folder: Path, events: Events, hashes: dict[str, str]) -> dict[str, Any]:
    hashes |= download(files, folder, events)
    refuse_unusable(folder)
    shutil.rmtree(folder / PARTIAL_FILES, ignore_errors=True)
    _warn_of_other_size(files.source.repo, folder, events)
    return _metrics(folder)


def _warn_of_other_size(repo: str, folder: Path, events: Events) -> None:
    """Warn if configs/models.yaml gives another size than the model's config.json: its plans would be wrong."""
    key, shape = registry().find(repo), read_shape(read_json(folder / "config.json"))
    if key and shape and shape.text != (registered := registry().shape(key).text):
        text = f"{repo}: its config says {shape.text:,} parameters, configs/models.yaml {registered:,}"
        events.emit("warning", text=f"{text}; correct the table")


def _copy(source: Path, folder: Path, events: Events) -> dict[str, Any]:
    # Copied, not linked: who saves over the source later must not change a base that runs were made from.
    files = fetched_files(source)
    total_bytes, copied_bytes = sum(f.stat().st_size for f in files), 0
    refuse_if_full(folder, total_bytes)
    _warn_of_adapter(source, events)
    for file in files:
        target = folder / file.name
        with explained_disk_full(folder):
            shutil.copyfile(file, target)
        copied_bytes += target.stat().st_size
        events.progress(copied_bytes, total_bytes, "bytes", file.name)
        if sha256(target) != cached_sha256(file):
            target.unlink()
            raise StageFailed(f"{file}: changed while it was copied; run again")
    return _metrics(folder)


def _warn_of_adapter(folder: Path, events: Events) -> None:
    if (folder / ADAPTER_CONFIG).exists():
        text = (
            f"{folder}: the folder also contains an adapter ({ADAPTER_CONFIG}), which is not used; merge it to "
            "train on both"
        )
        events.emit("warning", text=text)


def _metrics(folder: Path) -> dict[str, Any]:
    files = fetched_files(folder)
    config = read_json(folder / "config.json")
    return {"model_type": config["model_type"], "files": len(files), "bytes": sum(f.stat().st_size for f in files)}
