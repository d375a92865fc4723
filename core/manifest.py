"""What is recorded of an artifact: the formats of `manifest.json` and `draft.json`."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneline.core.machine import Machine

CHECKSUM = "checksum"
"""Key in `manifest.json` with the SHA-256 of the other fields, so that damage is noticed; older versions wrote none."""


Record = TypeVar("Record", bound=BaseModel)


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
    needs_content: dict[str, str] = {}
    """Needed artifact → its `Manifest.digest`; not part of the fingerprint, and empty in older versions' manifests."""

    @property
    def fingerprint(self) -> str:
        """The first 16 hex digits of the SHA-256 of this record's canonical JSON, without the needed bytes."""
        return _short_hash(self.model_dump(exclude={"needs_content"}))


class Manifest(BaseModel):
    """The record of a finished artifact; the format of `manifest.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    fingerprint: str
    made_from: MadeFrom
    metrics: dict[str, Any]
    files: dict[str, File]
    removed: dict[str, File] = {}
    """Files that were made and later removed to free space; nobody looks for them, and they stay part of `digest`."""
    versions: dict[str, str]
    started: datetime
    ended: datetime
    seconds: float
    """Working time of all attempts, without the time between them."""
    cost_usd: float | None = None
    """The cost of `seconds` at the price of an hour where it was made; None if nobody is billed."""
    machines: tuple[Machine, ...] = ()
    """Where its attempts ran, the first one first; empty in older versions' manifests."""

    @property
    def origin(self) -> str:
        """When and where its figures were measured, to follow "measured"."""
        machines = "; then ".join(map(str, self.machines)) or "a machine that was not recorded"
        return f"{self.ended:%Y-%m-%d} on {machines}"

    @property
    def made(self) -> dict[str, File]:
        """All files that were made, those that were removed since included."""
        return {**self.files, **self.removed}

    @property
    def digest(self) -> str:
        """Identifies settings and bytes: the first 16 hex digits of the SHA-256 of the fingerprint and all hashes."""
        return _short_hash([self.fingerprint, {name: file.sha256 for name, file in self.made.items()}])

    def files_below(self, path: str = "") -> list[str]:
        """Return the names of the files in a folder of the artifact, or of the one file `path`; all by default."""
        return [name for name in self.files if _is_below(name, path)]

    def removed_below(self, path: str = "") -> list[str]:
        """Return the names of what was removed of a folder, or the one file `path`; all by default."""
        return [name for name in self.removed if _is_below(name, path)]


class Draft(BaseModel):
    """The record of unfinished work; the format of `draft.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    made_from: MadeFrom
    started: datetime
    seconds: float
    """Working time of all attempts so far."""
    machines: tuple[Machine, ...] = ()
    """Where they ran."""


def format_manifest(manifest: Manifest) -> str:
    """Return the content of `manifest.json`."""
    record = json.loads(manifest.model_dump_json(exclude=None if manifest.removed else {"removed"}))
    return json.dumps(record | {CHECKSUM: _hash(record)}, indent=1)


def parse_manifest(content: bytes) -> Manifest:
    """Return the manifest in the content of `manifest.json`.

    Raises:
        ValueError: it is damaged; the message says how, in one line.
    """
    record = _parse_object(content)
    if record.pop(CHECKSUM, None) not in (None, _hash(record)):
        raise ValueError("its checksum does not match its content")
    return _validate(Manifest, record)


def parse_draft(content: bytes) -> Draft:
    """Return the draft in the content of `draft.json`.

    Raises:
        ValueError: it is damaged; the message says how, in one line.
    """
    return _validate(Draft, _parse_object(content))


def _parse_object(content: bytes) -> dict[str, Any]:
    try:
        record = json.loads(content)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError(f"it should be a JSON object, not {type(record).__name__}")
    return record


def _validate(model: type[Record], record: dict[str, Any]) -> Record:
    try:
        return model.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk."""

    path: Path
    manifest: Manifest

    @property
    def metrics(self) -> dict[str, Any]:
        return self.manifest.metrics


def _is_below(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(f"{path}/")


def _short_hash(record: Any) -> str:
    return _hash(record)[:16]


def _hash(record: Any) -> str:
    """Return the hex SHA-256 of a record's canonical JSON."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
