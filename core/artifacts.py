"""Artifacts: what a stage produces. A directory is complete if it has a `manifest.json`, which is written last.

A stage calls `make`. Finished work with the same fingerprint is returned at once, and unfinished work is continued in
the same directory. Work made from other settings is refused with an error that names the settings that differ.
`draft.json` marks unfinished work.
"""

import contextlib
import hashlib
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneline.core.errors import NotFound, StageFailed, StaleArtifact
from tuneline.core.files import remove_temporaries, sha256, write_atomic
from tuneline.core.spending import read_usd_per_hour

MANIFEST, DRAFT = "manifest.json", "draft.json"
RECORDED_VERSIONS = ("torch", "transformers", "peft", "trl", "bitsandbytes", "llama-cpp-python")
SCRATCH = "scratch"
"""A folder of this name inside an artifact is work in progress: not recorded, removed when the artifact is finished."""


class File(BaseModel):
    """Size and SHA-256 of one file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    bytes: int
    sha256: str


class MadeFrom(BaseModel):
    """What determines an artifact's content: flat settings, and the fingerprints of the artifacts it was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage_version: int
    settings: dict[str, Any]
    needs: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """The first 16 hex digits of the SHA-256 of this record's canonical JSON."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()[:16]


class Manifest(BaseModel):
    """The record of a finished artifact; the format of `manifest.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    fingerprint: str
    made_from: MadeFrom
    metrics: dict[str, Any]
    files: dict[str, File]
    versions: dict[str, str]
    started: datetime
    ended: datetime
    seconds: float
    """Working time of all attempts, without the time between them."""
    cost_usd: float | None = None
    """The cost of `seconds` at the price of an hour where it was made; None if nobody is billed."""


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk."""

    path: Path
    manifest: Manifest

    @property
    def metrics(self) -> dict[str, Any]:
        return self.manifest.metrics


def make(
    path: Path,
    *,
    stage_version: int,
    settings: Mapping[str, Any],
    needs: Mapping[str, Artifact],
    build: Callable[[Path], Mapping[str, Any]],
    stage: str | None = None,
    hashed: Mapping[str, str] | None = None,
) -> Artifact:
    """Return the artifact at `path`; call `build(path) -> metrics` to make it unless it is finished already.

    `build` may find what an earlier, interrupted call left in the directory and continue from it. `hashed` holds the
    SHA-256 of files that it hashed while it wrote them, by their path in the artifact.

    Raises:
        StaleArtifact: the directory holds work made from other settings or other needed artifacts.
    """
    stage = stage or path.name
    made_from = MadeFrom(
        stage_version=stage_version,
        settings=flatten(settings),
        needs={name: artifact.manifest.fingerprint for name, artifact in needs.items()},
    )
    if (path / MANIFEST).exists():
        artifact = open_artifact(path)
        _refuse_if_stale(artifact.manifest.made_from, made_from, path, finished=True)
        return artifact
    draft = _begin(path, made_from)
    clock = time.monotonic()
    try:
        metrics = dict(build(path))
    finally:
        seconds = draft["seconds"] + time.monotonic() - clock
        if path.exists():
            _write_draft(path, made_from, draft["started"], seconds)
    return _seal(path, stage, made_from, metrics, draft["started"], seconds, hashed or {})


def open_artifact(path: Path) -> Artifact:
    """Return the finished artifact at `path`, after checking that its files have the recorded sizes.

    Raises:
        NotFound: there is no finished artifact. StageFailed: it is damaged.
    """
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_text())
    except FileNotFoundError:
        raise NotFound(f"{path}: no finished {path.name} here; run `tuneline {path.name} RECIPE` first") from None
    except ValidationError as error:
        raise StageFailed(
            f"{path / MANIFEST}: not a manifest ({error.errors()[0]['msg']}); remove {path} and run again"
        ) from None
    for name, file in manifest.files.items():
        size = (path / name).stat().st_size if (path / name).exists() else None
        if size != file.bytes:
            state = "missing" if size is None else f"{size} bytes"
            raise StageFailed(f"{path / name}: {state}, but {file.bytes} were recorded; remove {path} and run again")
    return Artifact(path, manifest)


def is_finished(path: Path) -> bool:
    """Return whether there is a finished artifact at `path`."""
    return (path / MANIFEST).exists()


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level with dotted keys, so that a difference has a name."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _begin(path: Path, made_from: MadeFrom) -> dict[str, Any]:
    path.mkdir(parents=True, exist_ok=True)
    if (path / DRAFT).exists():
        draft: dict[str, Any] = json.loads((path / DRAFT).read_text())
        _refuse_if_stale(MadeFrom.model_validate(draft["made_from"]), made_from, path, finished=False)
        return draft
    started = datetime.now(UTC).isoformat()
    _write_draft(path, made_from, started, 0.0)
    return {"started": started, "seconds": 0.0}


def _write_draft(path: Path, made_from: MadeFrom, started: str, seconds: float) -> None:
    draft = {"made_from": made_from.model_dump(), "started": started, "seconds": seconds}
    write_atomic(path / DRAFT, json.dumps(draft))


def _refuse_if_stale(old: MadeFrom, new: MadeFrom, path: Path, *, finished: bool) -> None:
    if old.fingerprint == new.fingerprint:
        return
    before, after = _flat_record(old), _flat_record(new)
    changed = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    lines = [f"  {key}: {before.get(key)!r} there, {after.get(key)!r} now" for key in changed[:8]]
    more = [f"  … and {len(changed) - 8} more"] if len(changed) > 8 else []
    state = "was made" if finished else "was begun"
    remedy = f"keep it and use another run (--run NEW), or remove {path} and run again"
    raise StaleArtifact("\n".join([f"{path} {state} from other settings:", *lines, *more, remedy]))


def _flat_record(made_from: MadeFrom) -> dict[str, Any]:
    needs = {f"needs.{name}": fingerprint for name, fingerprint in made_from.needs.items()}
    return {"stage_version": made_from.stage_version, **made_from.settings, **needs}


def _seal(
    path: Path,
    stage: str,
    made_from: MadeFrom,
    metrics: Mapping[str, Any],
    started: str,
    seconds: float,
    hashed: Mapping[str, str],
) -> Artifact:
    shutil.rmtree(path / SCRATCH, ignore_errors=True)
    remove_temporaries(path)
    payload = sorted(f for f in path.rglob("*") if f.is_file() and f.name not in (MANIFEST, DRAFT))
    manifest = Manifest(
        stage=stage,
        fingerprint=made_from.fingerprint,
        made_from=made_from,
        metrics=dict(metrics),
        files={
            (name := str(f.relative_to(path))): File(bytes=f.stat().st_size, sha256=hashed.get(name) or sha256(f))
            for f in payload
        },
        versions=read_versions(),
        started=datetime.fromisoformat(started),
        ended=datetime.now(UTC),
        seconds=round(seconds, 3),
        cost_usd=None if (price := read_usd_per_hour()) is None else round(price * seconds / 3600, 4),
    )
    write_atomic(path / MANIFEST, manifest.model_dump_json(indent=1))
    (path / DRAFT).unlink(missing_ok=True)
    return Artifact(path, manifest)


@cache
def read_versions() -> dict[str, str]:
    """Return the versions of what influences a result, by package; packages that are not installed are left out."""
    by_package = {"python": platform.python_version(), "tuneline": _commit()}
    for package in RECORDED_VERSIONS:
        with contextlib.suppress(PackageNotFoundError):
            by_package[package] = version(package)
    return by_package


def _commit() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"
