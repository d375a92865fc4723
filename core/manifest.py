"""What is recorded of an artifact: the format of `manifest.json`."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict


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
    versions: dict[str, str]
    started: datetime
    ended: datetime
    seconds: float
    """Working time of all attempts, without the time between them."""
    cost_usd: float | None = None
    """The cost of `seconds` at the price of an hour where it was made; None if nobody is billed."""

    @property
    def digest(self) -> str:
        """Identifies settings and bytes: the first 16 hex digits of the SHA-256 of the fingerprint and all hashes."""
        return _short_hash([self.fingerprint, {name: file.sha256 for name, file in self.files.items()}])

    def files_below(self, path: str = "") -> list[str]:
        """Return the names of the files in a folder of the artifact, or of the one file `path`; all by default."""
        return [name for name in self.files if not path or name == path or name.startswith(f"{path}/")]


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk."""

    path: Path
    manifest: Manifest

    @property
    def metrics(self) -> dict[str, Any]:
        return self.manifest.metrics


def _short_hash(record: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of a record's canonical JSON."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
