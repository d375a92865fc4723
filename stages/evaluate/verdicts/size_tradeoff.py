"""Size against quality: what each quantization loses against 16 bit, and the smallest that loses little enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneline.stages.evaluate import statistics
from tuneline.stages.evaluate.clients.asking import Answer
from tuneline.stages.evaluate.verdicts.task_verdicts import Paired

TOLERANCE_POINTS = 1.0
"""Where an evaluation is older than the recipe's key."""


@dataclass(frozen=True)
class Size:
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
class Sizes:
    """All files, largest first."""

    rows: tuple[Size, ...]
    reference: str
    tolerance_points: float
    confidence: float

    @property
    def recommended(self) -> Size | None:
        """The smallest within the tolerance; None if nothing was answered."""
        fitting = [row for row in self.rows if row.within]
        return min(fitting, key=lambda row: row.bytes) if fitting else None


def sizes(
    answers: Mapping[str, Mapping[str, Sequence[Answer]]],
    files: Mapping[str, int],
    reference: str,
    *,
    tolerance_points: float,
    confidence: float,
    fidelity: Mapping[str, Mapping[str, Any]],
) -> Sizes:
    """Holds every file that answered against `reference`.

    `answers` by target and suite, in the order of the items; `files` are bytes by target.
    """
    rows = [
        _size(target, files[target], answers, reference, tolerance_points, confidence, fidelity.get(target, {}))
        for target in files
        if target in answers and reference in answers
    ]
    return Sizes(tuple(sorted(rows, key=lambda row: -row.bytes)), reference, tolerance_points, confidence)


def _size(
    target: str,
    amount: int,
    answers: Mapping[str, Mapping[str, Sequence[Answer]]],
    reference: str,
    tolerance_points: float,
    confidence: float,
    fidelity: Mapping[str, Any],
) -> Size:
    tasks = {suite: _paired(suite, answers[reference][suite], found) for suite, found in answers[target].items()}
    before = [right for task in tasks.values() for right in task.a]
    after = [right for task in tasks.values() for right in task.b]
    clusters = [cluster for task in tasks.values() for cluster in task.clusters]
    low, high = statistics.interval(after, clusters, confidence)
    pair = statistics.compare(before, after, clusters, confidence)
    tolerated = tolerance_points / 100 + 1e-9
    strict = 1 - (1 - confidence) / max(1, len(tasks))
    each = {suite: statistics.compare(task.a, task.b, task.clusters, strict) for suite, task in tasks.items()}
    beyond_on = tuple(suite for suite, found in each.items() if -found.high > tolerated)
    return Size(
        target=target,
        bytes=amount,
        n=len(after),
        share=sum(after) / len(after) if after else 0.0,
        low=low,
        high=high,
        lost=-pair.difference,
        lost_low=-pair.high,
        lost_high=-pair.low,
        beyond_on=beyond_on,
        within=target == reference or (-pair.difference <= tolerated and not beyond_on),
        shown=target == reference or (-pair.low <= tolerated and not beyond_on),
        fidelity=fidelity,
    )


def _paired(suite: str, before: Sequence[Answer], after: Sequence[Answer]) -> Paired:
    others = {answer.id: answer for answer in before}
    both = [(others[answer.id], answer) for answer in after if answer.id in others]
    frames = [f"{suite}\n{answer.carrier}" for _, answer in both]
    return Paired([a.name_correct for a, _ in both], [b.name_correct for _, b in both], frames)
