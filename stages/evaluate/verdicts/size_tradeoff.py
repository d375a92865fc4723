"""Size against quality: what each quantization loses against 16 bit, and the smallest file that loses little enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneline.stages.evaluate import statistics
from tuneline.stages.evaluate.answers import Answer
from tuneline.stages.evaluate.verdicts.task_verdicts import PairedOutcomes

TOLERANCE_POINTS = 1.0
"""Used where an evaluation is older than the recipe's key."""


@dataclass(frozen=True)
class FileQuality:
    """One file of the tuned model. Shares are of right answers over all items that can prove something."""

    target: str
    bytes: int
    n: int
    share: float
    low: float
    high: float
    lost: float
    """Share lost against 16 bit, on the same items; negative where it gained."""
    lost_low: float
    lost_high: float
    beyond_on: tuple[str, ...]
    """Suites on which it was shown to lose more than the tolerance (corrected for their number)."""
    within: bool
    """Whether it lost at most the tolerance over all suites, and was shown to lose more on none."""
    shown: bool
    """Whether the loss's whole interval is within the tolerance."""
    fidelity: Mapping[str, Any]
    """Perplexity, KL divergence and agreement, as convert verified them; empty where it did not."""


@dataclass(frozen=True)
class SizeTradeoff:
    """All files, largest first."""

    rows: tuple[FileQuality, ...]
    reference: str
    tolerance_points: float
    confidence: float

    @property
    def recommended(self) -> FileQuality | None:
        """The smallest file within the tolerance, or None if nothing was answered."""
        fitting = [row for row in self.rows if row.within]
        return min(fitting, key=lambda row: row.bytes) if fitting else None


def size_tradeoff(
    answers: Mapping[str, Mapping[str, Sequence[Answer]]],
    files: Mapping[str, int],
    reference: str,
    *,
    tolerance_points: float,
    confidence: float,
    fidelity: Mapping[str, Mapping[str, Any]],
) -> SizeTradeoff:
    """Return every file that was asked, compared with `reference`.

    `answers` are by target and suite, in the order of the items; `files` are sizes in bytes by target.
    """
    rows = [
        _file_quality(target, size, answers, reference, tolerance_points, confidence, fidelity.get(target, {}))
        for target, size in files.items()
        if target in answers and reference in answers
    ]
    return SizeTradeoff(tuple(sorted(rows, key=lambda row: -row.bytes)), reference, tolerance_points, confidence)


def _file_quality(
    target: str,
    size: int,
    answers: Mapping[str, Mapping[str, Sequence[Answer]]],
    reference: str,
    tolerance_points: float,
    confidence: float,
    fidelity: Mapping[str, Any],
) -> FileQuality:
    tasks = {suite: _paired(suite, answers[reference][suite], of_suite) for suite, of_suite in answers[target].items()}
    before = [right for task in tasks.values() for right in task.a]
    after = [right for task in tasks.values() for right in task.b]
    clusters = [cluster for task in tasks.values() for cluster in task.clusters]
    low, high = statistics.interval(after, clusters, confidence)
    pair = statistics.compare(before, after, clusters, confidence)
    tolerance = tolerance_points / 100 + 1e-9
    strict = 1 - (1 - confidence) / max(1, len(tasks))
    pairs = {suite: statistics.compare(task.a, task.b, task.clusters, strict) for suite, task in tasks.items()}
    beyond_on = tuple(suite for suite, suite_pair in pairs.items() if -suite_pair.high > tolerance)
    return FileQuality(
        target=target,
        bytes=size,
        n=len(after),
        share=sum(after) / len(after) if after else 0.0,
        low=low,
        high=high,
        lost=-pair.difference,
        lost_low=-pair.high,
        lost_high=-pair.low,
        beyond_on=beyond_on,
        within=target == reference or (-pair.difference <= tolerance and not beyond_on),
        shown=target == reference or (-pair.low <= tolerance and not beyond_on),
        fidelity=fidelity,
    )


def _paired(suite: str, before: Sequence[Answer], after: Sequence[Answer]) -> PairedOutcomes:
    by_id = {answer.id: answer for answer in before}
    pairs = [(by_id[answer.id], answer) for answer in after if answer.id in by_id]
    clusters = [f"{suite}\n{answer.phrasing}" for _, answer in pairs]
    return PairedOutcomes([a.name_correct for a, _ in pairs], [b.name_correct for _, b in pairs], clusters)
