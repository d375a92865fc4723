"""What is on disk of a run, as the report reads it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from tuneline.core import paths
from tuneline.core.artifacts import DRAFT, MANIFEST, Manifest
from tuneline.core.formatting import Row

STAGES = ("prepare", "train", "convert", "evaluate")


@dataclass(frozen=True)
class Run:
    """What is on disk of a run: a manifest for each finished stage, and the settings of begun ones."""

    path: Path
    manifests: Mapping[str, Manifest]
    begun: Mapping[str, Row] = field(default_factory=dict)
    fetched: Manifest | None = None

    def metrics(self, stage: str) -> Row:
        return self.manifests[stage].metrics if stage in self.manifests else {}

    def settings(self, stage: str) -> Row:
        if stage in self.manifests:
            return self.manifests[stage].made_from.settings
        settings: Row = self.begun.get(stage, {})
        return settings


def read(run: Path) -> Run:
    """All stages of a run; what cannot be read counts as not made."""
    manifests = {stage: m for stage in STAGES if (m := _manifest(run / stage / MANIFEST))}
    begun = {s: _draft_settings(run / s / DRAFT) for s in STAGES if s not in manifests and (run / s / DRAFT).exists()}
    wanted = {m.made_from.needs.get("fetch") for m in manifests.values()} - {None}
    bases = [m for file in sorted(paths.models().glob(f"*/{MANIFEST}")) if (m := _manifest(file))]
    return Run(run, manifests, begun, next((m for m in bases if m.fingerprint in wanted), None))


def _manifest(file: Path) -> Manifest | None:
    try:
        return Manifest.model_validate_json(file.read_text())
    except (OSError, ValidationError):
        return None


def _draft_settings(file: Path) -> Row:
    try:
        settings: Row = json.loads(file.read_text())["made_from"]["settings"]
    except (OSError, ValueError, KeyError):
        return {}
    return settings
