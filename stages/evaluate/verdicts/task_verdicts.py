"""Verdicts of one model against another, task by task; the format that routing builds on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneline.core.errors import NotFound
from tuneline.stages.evaluate import statistics
from tuneline.stages.evaluate.answers import Answer

VERDICTS = "verdicts.json"
"""In `evaluate/`: the served model against the baseline."""

MATTERS = 0.03
"""The smallest difference of shares that matters. With too few items to find it, "no difference" is not said."""

VerdictWord = Literal["better", "worse", "not shown", "too few"]


@dataclass(frozen=True)
class PairedOutcomes:
    """Whether two models are right on the same items of one task, item by item, and each item's cluster."""

    a: Sequence[bool]
    b: Sequence[bool]
    clusters: Sequence[str]


class Verdict(BaseModel):
    """B against A on one task.

    Shares are of right answers; p tests "no difference", `p_corrected` is corrected over all tasks (Holm).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    verdict: VerdictWord
    n: int
    clusters: int
    a: float
    a_low: float
    a_high: float
    b: float
    b_low: float
    b_high: float
    difference: float
    low: float
    high: float
    gained: int
    lost: int
    p: float
    p_corrected: float
    more_needed: int = 0
    """Items to add, in new clusters, to find a difference of `MATTERS`, or the observed one if it is larger, with
    probability 0.8; above 0 where the verdict is "too few"."""

    @property
    def summary(self) -> str:
        """The verdict in a few words."""
        return {
            "better": "better",
            "worse": "worse",
            "not shown": "no difference shown",
            "too few": f"too few items: {self.more_needed} more needed",
        }[self.verdict]


class Verdicts(BaseModel):
    """The verdicts on all tasks of one comparison."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    a: str
    b: str
    confidence: float
    tasks: tuple[Verdict, ...]


def pair_answers(a: Sequence[Answer], b: Sequence[Answer]) -> PairedOutcomes:
    """Return the outcomes of two models' answers to the same items, in the same order."""
    return PairedOutcomes([x.name_correct for x in a], [y.name_correct for y in b], [y.phrasing for y in b])


def compare_tasks(a: str, b: str, tasks: Mapping[str, PairedOutcomes], confidence: float) -> Verdicts:
    """Return the verdicts of B against A task by task, corrected for the number of tasks."""
    pairs = {task: statistics.compare(p.a, p.b, p.clusters, confidence) for task, p in tasks.items()}
    corrected = statistics.holm([pair.p for pair in pairs.values()])
    verdicts = [
        _verdict(task, tasks[task], pair, p, confidence, len(tasks))
        for (task, pair), p in zip(pairs.items(), corrected, strict=True)
    ]
    return Verdicts(a=a, b=b, confidence=confidence, tasks=tuple(verdicts))


def read_verdicts(file: Path) -> Verdicts:
    """Return the verdicts in a file.

    Raises:
        NotFound: the file does not exist, or has no verdicts.
    """
    try:
        return Verdicts.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        raise NotFound(f"{file}: no verdicts; run `tuneline evaluate RECIPE --run NEW`") from None


def _verdict(
    task: str, outcomes: PairedOutcomes, pair: statistics.Pair, corrected: float, confidence: float, tasks: int
) -> Verdict:
    a_low, a_high = statistics.interval(outcomes.a, outcomes.clusters, confidence)
    b_low, b_high = statistics.interval(outcomes.b, outcomes.clusters, confidence)
    is_significant = corrected <= 1 - confidence
    missing = 0 if is_significant else _missing_items(pair, confidence, tasks)
    word: VerdictWord = "too few" if missing else "not shown"
    if is_significant:
        word = "better" if pair.difference > 0 else "worse"
    return Verdict(
        task=task,
        verdict=word,
        n=pair.n,
        clusters=pair.clusters,
        a=round(_share(outcomes.a), 6),
        a_low=round(a_low, 6),
        a_high=round(a_high, 6),
        b=round(_share(outcomes.b), 6),
        b_low=round(b_low, 6),
        b_high=round(b_high, 6),
        difference=round(pair.difference, 6),
        low=round(pair.low, 6),
        high=round(pair.high, 6),
        gained=pair.gained,
        lost=pair.lost,
        p=pair.p,
        p_corrected=corrected,
        more_needed=missing,
    )


def _missing_items(pair: statistics.Pair, confidence: float, tasks: int) -> int:
    """Return the items to add; 0 if the present ones would have found a difference that matters."""
    if not pair.n:
        return statistics.items_needed(MATTERS, MATTERS, confidence)
    # Holm's strictest step, so that the number holds whatever the other tasks turn out to be.
    strict, changed = 1 - (1 - confidence) / tasks, (pair.gained + pair.lost) / pair.n
    if statistics.items_needed(MATTERS, changed, strict, pair.effect) <= pair.n:
        return 0
    # A larger difference takes fewer items, but a handful of clusters cannot show any.
    needed = statistics.items_needed(max(MATTERS, abs(pair.difference)), changed, strict, pair.effect)
    clustered = ceil(pair.n / pair.clusters * statistics.clusters_needed(strict))
    return max(1, max(needed, clustered) - pair.n)


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes) if outcomes else 0.0
