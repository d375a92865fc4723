"""What was shown about a task: better, worse, not shown, or too few items. The format that routing builds on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneline.core.errors import NotFound
from tuneline.stages.evaluate import statistics

FILE = "verdicts.json"
"""In `evaluate/`: the baseline against the model that is served."""

MATTERS = 0.03
"""The smallest difference of shares that matters: fewer items than find it are too few to say there is none."""

Word = Literal["better", "worse", "not shown", "too few"]


@dataclass(frozen=True)
class Paired:
    """Right or not, item by item, of two models on the same items of one task; with each item's cluster."""

    a: Sequence[bool]
    b: Sequence[bool]
    clusters: Sequence[str]


class Verdict(BaseModel):
    """B against A on one task. Shares are of right answers; p is of no difference, corrected over all tasks (Holm)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    verdict: Word
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
    """Items to add, in new frames, that find a difference of `MATTERS`, or the larger one there seems to be, four times
    in five; not 0 where there are too few."""

    @property
    def told(self) -> str:
        """The verdict in a few words."""
        return {
            "better": "better",
            "worse": "worse",
            "not shown": "no difference shown",
            "too few": f"too few items: {self.more_needed} more needed",
        }[self.verdict]


class Verdicts(BaseModel):
    """All tasks of one comparison."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    a: str
    b: str
    confidence: float
    tasks: tuple[Verdict, ...]


def judge_tasks(a: str, b: str, tasks: Mapping[str, Paired], confidence: float) -> Verdicts:
    """Compares B with A task by task, corrected for the number of tasks."""
    pairs = {task: statistics.compare(p.a, p.b, p.clusters, confidence) for task, p in tasks.items()}
    corrected = statistics.holm([pair.p for pair in pairs.values()])
    made = [
        _verdict(task, tasks[task], pair, p, confidence, len(tasks))
        for (task, pair), p in zip(pairs.items(), corrected, strict=True)
    ]
    return Verdicts(a=a, b=b, confidence=confidence, tasks=tuple(made))


def read_verdicts(file: Path) -> Verdicts:
    """The verdicts in a file.

    Raises:
        NotFound: there are none.
    """
    try:
        return Verdicts.model_validate_json(file.read_text())
    except (OSError, ValidationError):
        raise NotFound(f"{file}: no verdicts here; `tuneline evaluate RECIPE --run NEW` writes them") from None


def _verdict(
    task: str, items: Paired, pair: statistics.Pair, corrected: float, confidence: float, tasks: int
) -> Verdict:
    a_low, a_high = statistics.interval(items.a, items.clusters, confidence)
    b_low, b_high = statistics.interval(items.b, items.clusters, confidence)
    found = corrected <= 1 - confidence
    missing = 0 if found else _missing(pair, confidence, tasks)
    word: Word = ("better" if pair.difference > 0 else "worse") if found else "too few" if missing else "not shown"
    return Verdict(
        task=task,
        verdict=word,
        n=pair.n,
        clusters=pair.clusters,
        a=round(_share(items.a), 6),
        a_low=round(a_low, 6),
        a_high=round(a_high, 6),
        b=round(_share(items.b), 6),
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


def _missing(pair: statistics.Pair, confidence: float, tasks: int) -> int:
    """Items to add; 0 if a difference that matters would have been found with those there are."""
    if not pair.n:
        return statistics.items_needed(MATTERS, MATTERS, confidence)
    # Holm's strictest step: what is promised holds whatever the other tasks turn out to be.
    strict, changed = 1 - (1 - confidence) / tasks, (pair.gained + pair.lost) / pair.n
    if statistics.items_needed(MATTERS, changed, strict, pair.effect) <= pair.n:
        return 0
    # What looks like a larger difference takes fewer items, but no difference is shown by a handful of frames.
    needed = statistics.items_needed(max(MATTERS, abs(pair.difference)), changed, strict, pair.effect)
    frames = ceil(pair.n / pair.clusters * statistics.clusters_needed(strict))
    return max(1, max(needed, frames) - pair.n)


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes) if outcomes else 0.0
