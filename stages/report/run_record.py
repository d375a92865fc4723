"""A run as the report reads it from its folder."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneline.core import paths
from tuneline.core.artifacts import MANIFEST, is_finished, read_artifact, read_draft
from tuneline.core.errors import TunelineError
from tuneline.core.manifest import Manifest
from tuneline.stages.run_artifacts import find_problems, verify_stage

STAGES = ("prepare", "train", "convert", "evaluate")

Row = dict[str, Any]
"""A row of a table, or any other JSON object of a manifest."""


@dataclass(frozen=True)
class RunRecord:
    """The manifests of a run's finished stages, and the settings of stages that have begun."""

    path: Path
    manifests: Mapping[str, Manifest]
    draft_settings: Mapping[str, Row] = field(default_factory=dict)
    """Settings of each stage that has begun and is not finished."""
    base_manifest: Manifest | None = None
    """The manifest of the run's base model, if the base is on this machine."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """Finished stage → why it counts as missing: it is damaged, or was made from something else than is there now."""

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
    """Return what is on disk of a run; a stage that is damaged, or of other files than are there, counts as missing.

    Raises:
        StageFailed: a draft of the run is damaged.
    """
    problems = find_problems(run, verify_stage)
    finished = [stage for stage in STAGES if is_finished(run / stage) and stage not in problems]
    manifests = {stage: read_artifact(run / stage).manifest for stage in finished}
    unfinished = [stage for stage in STAGES if not is_finished(run / stage)]
    drafts = {stage: draft for stage in unfinished if (draft := read_draft(run / stage))}
    base_fingerprints = {m.made_from.needs.get("fetch") for m in manifests.values()} - {None}
    return RunRecord(
        run,
        manifests,
        {stage: draft.made_from.settings for stage, draft in drafts.items()},
        next((m for m in _read_base_manifests() if m.fingerprint in base_fingerprints), None),
        problems,
    )


def _read_base_manifests() -> Iterator[Manifest]:
    """Yield the manifests of the bases on this machine; whether a damaged one is the run's cannot be known."""
    for file in sorted(paths.models().glob(f"*@*/{MANIFEST}")):
        with contextlib.suppress(TunelineError):
            yield read_artifact(file.parent).manifest
