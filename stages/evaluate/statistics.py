"""How sure one can be: intervals of shares, tests of two models on the same items, and how many items that takes.

Items of one cluster (a sentence frame, a conversation) are right or wrong together, so they say less than as many
independent ones. Every function takes each item's cluster; a cluster of its own for each gives the textbook's result.
What holds and where it ends is measured by `benchmarks/intervals.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2_000
ENOUGH_FALLEN = 10
"""Clusters with a wrong item, from which on they tell how much items fall together."""
POWER = 0.8
"""How likely a difference that matters shall be found."""

Interval = tuple[float, float]


def interval(outcomes: Sequence[bool], clusters: Sequence[str], confidence: float) -> Interval:
    """The two-sided interval of a share: Wilson's, at the number of independent items these are worth."""
    return wilson(sum(outcomes), len(outcomes), confidence, design_effect(outcomes, clusters))


def lower_bound(outcomes: Sequence[bool], clusters: Sequence[str], confidence: float) -> float:
    """The one-sided lower bound of a share: Clopper and Pearson's, at the number of independent items these are worth.

    For clusters: Korn and Graubard, Survey Methodology 24 (1998).
    """
    return clopper_pearson(sum(outcomes), len(outcomes), confidence, cautious_effect(outcomes, clusters))


def cautious_effect(outcomes: Sequence[bool], clusters: Sequence[str]) -> float:
    """The design effect for a bound that must not lie too high.

    How much the items of a cluster fall together shows in those that fall: where hardly any do, a cluster is one item.
    """
    fallen = {cluster for cluster, right in zip(clusters, outcomes, strict=True) if not right}
    effect = design_effect(outcomes, clusters)
    return effect if len(fallen) >= ENOUGH_FALLEN else max(effect, len(outcomes) / max(1, len(set(clusters))))


def wilson(successes: int, n: int, confidence: float, effect: float = 1.0) -> Interval:
    """The two-sided score interval of a share (Wilson, 1927); all of [0, 1] when nothing was asked.

    `effect` is the design effect: so many items say as much as one that is independent.
    """
    if n == 0:
        return 0.0, 1.0
    z = _quantile((1 + confidence) / 2)
    share, z2, worth = successes / n, z * z, n / effect
    centre = (share + z2 / (2 * worth)) / (1 + z2 / worth)
    half = z / (1 + z2 / worth) * sqrt(share * (1 - share) / worth + z2 / (4 * worth * worth))
    # Rounding must not put a bound on the wrong side of the share itself.
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def clopper_pearson(successes: float, n: float, confidence: float, effect: float = 1.0) -> float:
    """The exact one-sided lower bound of a share (Clopper and Pearson, 1934)."""
    from scipy.stats import beta

    right, wrong = successes / effect, (n - successes) / effect
    return float(beta.ppf(1 - confidence, right, wrong + 1)) if right else 0.0


def design_effect(values: Sequence[float], clusters: Sequence[str]) -> float:
    """How much wider than for independent items the variance of the mean is; at least 1 (Kish, 1965)."""
    import numpy as np

    index, given = _index(clusters), np.asarray(values, dtype=float)
    n, k = len(given), int(index.max()) + 1 if len(given) else 0
    spread = float(given.var()) if n else 0.0
    if k < 2 or k == n or not spread:
        return 1.0
    residuals = np.bincount(index, weights=given - given.mean())
    return max(1.0, float(k / (k - 1) * (residuals**2).sum() / (n * spread)))


def cluster_bootstrap(values: Sequence[float], clusters: Sequence[str], confidence: float, seed: int = 0) -> Interval:
    """Percentile interval of a mean when whole clusters are drawn again, with replacement.

    For values that are more than right or wrong; for shares `interval` covers better (`benchmarks/intervals.py`).
    """
    import numpy as np

    if not values:
        return 0.0, 1.0
    index = _index(clusters)
    sizes, sums = np.bincount(index), np.bincount(index, weights=np.asarray(values, dtype=float))
    drawn = np.random.default_rng(seed).integers(0, len(sizes), (RESAMPLES, len(sizes)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Pair:
    """Two models, A and B, on the same items: B's share minus A's, with its interval, and the test of no difference."""

    n: int
    clusters: int
    gained: int
    """Items that B has right and A has wrong."""
    lost: int
    difference: float
    low: float
    high: float
    p: float
    effect: float
    """Design effect of the difference."""


def compare(a: Sequence[bool], b: Sequence[bool], clusters: Sequence[str], confidence: float) -> Pair:
    """A paired comparison.

    The interval is Agresti and Min's (Statistics in Medicine 24, 2005) at the number of independent items these are
    worth; the test is exact, by flipping whole clusters, which is McNemar's where each item is its own.
    """
    changes = [int(right) - int(before) for before, right in zip(a, b, strict=True)]
    n, gained, lost = len(changes), changes.count(1), changes.count(-1)
    effect = design_effect(changes, clusters)
    worth = n / effect + 2
    up, down = (gained / effect + 0.5) / worth, (lost / effect + 0.5) / worth
    half = _quantile((1 + confidence) / 2) * sqrt((up + down - (up - down) ** 2) / worth)
    difference = (gained - lost) / n if n else 0.0
    return Pair(
        n=n,
        clusters=len(set(clusters)),
        gained=gained,
        lost=lost,
        difference=difference,
        low=max(-1.0, min(up - down - half, difference)),
        high=min(1.0, max(up - down + half, difference)),
        p=sign_flips(changes, clusters),
        effect=effect,
    )


def sign_flips(changes: Sequence[int], clusters: Sequence[str]) -> float:
    """Exact two-sided p of a sum this far from 0 if each cluster's sum could as well have the other sign."""
    import numpy as np

    if not changes:
        return 1.0
    sums = np.bincount(_index(clusters), weights=changes).astype(int)
    chances = np.ones(1)
    for size in np.abs(sums[sums != 0]):
        chances = (np.pad(chances, (0, 2 * size)) + np.pad(chances, (2 * size, 0))) / 2
    reach = len(chances) // 2
    far = np.abs(np.arange(-reach, reach + 1)) >= abs(int(sums.sum()))
    return min(1.0, float(chances[far].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for testing all of them (Holm, 1979), in the order given."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, (p, place) in enumerate(sorted((p, place) for place, p in enumerate(p_values))):
        highest = max(highest, min(1.0, p * (len(p_values) - rank)))
        corrected[place] = highest
    return corrected


def items_needed(difference: float, changed: float, confidence: float, effect: float = 1.0) -> int:
    """Items that find a difference with probability `POWER`, when the share `changed` of items changes sides.

    Connor, Biometrics 43 (1987).
    """
    changed = max(changed, difference)  # it cannot differ by more than what changes
    reach = _quantile((1 + confidence) / 2) * sqrt(changed) + _quantile(POWER) * sqrt(changed - difference**2)
    return ceil(effect * (reach / difference) ** 2)


def clusters_needed(confidence: float) -> int:
    """Clusters that must change sides, all the same way, before `sign_flips` can fall to 1 - confidence."""
    return ceil(1 - log2(1 - confidence))


def items_for_bound(floor: float, share: float, confidence: float, effect: float = 1.0) -> int | None:
    """Items of which this share right lifts the one-sided bound to the floor; None if none would: it lies below."""
    if share <= floor:
        return None
    low, high = 0, 1
    while clopper_pearson(share * high, high, confidence, effect) < floor:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        reached = clopper_pearson(share * middle, middle, confidence, effect) >= floor
        low, high = (low, middle) if reached else (middle, high)
    return high


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed (nearest rank)."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


def quantile_bound(values: Sequence[float], share: float, confidence: float) -> float | None:
    """One-sided upper bound of a quantile, whatever the distribution: an order statistic; None if they are too few.

    The least rank that more values lie below the quantile with probability 1 - confidence at most. By hand: the gate is
    read where there is no scipy.
    """
    n = rank = len(values)
    term = above = share**n  # P(all n lie below the quantile), then P(at least `rank` do)
    if above > 1 - confidence:
        return None
    while rank > 1:
        term *= rank * (1 - share) / ((n - rank + 1) * share)
        if above + term > 1 - confidence:
            break
        above, rank = above + term, rank - 1
    return sorted(values)[rank - 1]


def _quantile(probability: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(probability))


def _index(clusters: Sequence[str]) -> "np.ndarray":
    """Each item's cluster as a number from 0."""
    import numpy as np

    index: np.ndarray = np.unique(np.asarray(clusters), return_inverse=True)[1]
    return index
