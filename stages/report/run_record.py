"""A run as the report reads it from its folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuneline.core import paths
from tuneline.core.artifacts import DRAFT, MANIFEST, Manifest

STAGES = ("prepare", "train", "convert", "evaluate")

Row = dict[str, Any]
"""A row of a table, or any other JSON object of a manifest."""


@dataclass(frozen=True)
class RunRecord:
    """The manifests of a run's finished stages, and the settings of stages that have begun."""

    path: Path
    manifests: Mapping[str, Manifest]
    draft_settings: Mapping[str, Row] = field(default_factory=dict)
    """Settings of each stage that has begun and is not finished; empty where its draft cannot be read."""
    base_manifest: Manifest | None = None
    """The manifest of the run's base model, if the base is on this machine."""

    def metrics(self, stage: str) -> Row:
        """Return the metrics of a finished stage, or an empty dict."""
        return self.manifests[stage].metrics if stage in self.manifests else {}

    def settings(self, stage: str) -> Row:
        """Return the settings of a finished or begun stage, or an empty dict."""
        if stage in self.manifests:
            return self.manifests[stage].made_from.settings
        settings: Row = self.draft_settings.get(stage, {})
        return settings

    @property
    def confidence(self) -> float:
        """The confidence level of the evaluation's intervals."""
        confidence: float = self.metrics("evaluate").get("confidence", 0.95)
        return confidence


def read_run(run: Path) -> RunRecord:
    """Return what is on disk of a run; a manifest that cannot be read counts as missing."""
    manifests = {stage: m for stage in STAGES if (m := _read_manifest(run / stage / MANIFEST))}
    drafts = {stage: run / stage / DRAFT for stage in STAGES if stage not in manifests}
    draft_settings = {stage: _read_draft_settings(draft) for stage, draft in drafts.items() if draft.exists()}
    base_fingerprints = {m.made_from.needs.get("fetch") for m in manifests.values()} - {None}
    bases = [m for file in sorted(paths.models().glob(f"*/{MANIFEST}")) if (m := _read_manifest(file))]
    return RunRecord(
        run, manifests, draft_settings, next((m for m in bases if m.fingerprint in base_fingerprints), None)
    )


def _read_manifest(file: Path) -> Manifest | None:
    try:
        return Manifest.model_validate_json(file.read_text())
    except (OSError, ValidationError):
        return None


def _read_draft_settings(file: Path) -> Row:
    try:
        settings: Row = json.loads(file.read_text())["made_from"]["settings"]
    except (OSError, ValueError, KeyError):
        return {}
    return settings
