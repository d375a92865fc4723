"""The runs of a sweep side by side: each compared with the first on the items both answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tuneline.core import paths
from tuneline.stages.evaluate.verdicts.comparison import pair_suites
from tuneline.stages.evaluate.verdicts.task_verdicts import PairedOutcomes, Verdict, compare_tasks
from tuneline.stages.run_artifacts import open_stage


@dataclass(frozen=True)
class SweepTable:
    """What was measured of each run."""

    runs: tuple[str, ...]
    validation_losses: dict[str, float | None]
    """By run, in nats per token in the loss."""
    verdicts: dict[tuple[str, str], Verdict]
    """By (run, suite): the run against the first one, p corrected over all of them (Holm)."""
    confidence: float

    @property
    def suites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(suite for _, suite in self.verdicts))

    def as_json(self) -> dict[str, Any]:
        """Return the table as a JSON object, with a list of verdicts."""
        verdicts = [
            {"run": run, "suite": suite} | verdict.model_dump() for (run, suite), verdict in self.verdicts.items()
        ]
        return {
            "runs": self.runs,
            "confidence": self.confidence,
            "validation_loss": self.validation_losses,
            "verdicts": verdicts,
        }


def compare_runs(runs: Sequence[str]) -> SweepTable:
    """Return the table of evaluated runs.

    Raises:
        NotFound, BadRequest: as `comparison.compare_models` does.
    """
    outcomes: dict[str, PairedOutcomes] = {}
    keys: dict[str, tuple[str, str]] = {}
    confidence = 0.95
    for run in runs[1:]:
        pairs, confidence = pair_suites(runs[0], run)
        for suite, suite_outcomes in pairs.items():
            outcomes[f"{run} {suite}"], keys[f"{run} {suite}"] = suite_outcomes, (run, suite)
    verdicts = compare_tasks(runs[0], "the others", outcomes, confidence).tasks if outcomes else ()
    losses = {run: open_stage(paths.run_folder(run), "train").metrics.get("validation_loss") for run in runs}
    return SweepTable(tuple(runs), losses, {keys[verdict.task]: verdict for verdict in verdicts}, confidence)
