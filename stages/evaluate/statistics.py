"""Confidence intervals of shares, tests of two models on the same items, and the number of items these need.

Items of one cluster (a sentence template, a conversation) tend to be right or wrong together, so they are worth fewer
independent ones. Every function takes the cluster of each item; where each is its own, the result is the textbook's.
Coverage and its limits are measured by `benchmarks/intervals.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2_000
MIN_WRONG_CLUSTERS = 10
"""Clusters with a wrong item that are needed to estimate how strongly the items of a cluster depend on each other."""
POWER = 0.8
"""Probability with which a difference that matters is found."""

Interval = tuple[float, float]


def interval(outcomes: Sequence[bool], clusters: Sequence[str], confidence: float) -> Interval:
    """Return the two-sided interval of a share: Wilson's, at the effective number of independent items."""
    return wilson(sum(outcomes), len(outcomes), confidence, design_effect(outcomes, clusters))


def lower_bound(outcomes: Sequence[bool], clusters: Sequence[str], confidence: float) -> float:
    """Return the one-sided lower bound of a share: Clopper and Pearson's, at the effective number of independent items.

    For clusters: Korn and Graubard, Survey Methodology 24 (1998).
    """
    return clopper_pearson(sum(outcomes), len(outcomes), confidence, cautious_effect(outcomes, clusters))


def cautious_effect(outcomes: Sequence[bool], clusters: Sequence[str]) -> float:
    """Return a design effect for a bound that must not be too high.

    How strongly a cluster's items depend on each other shows in wrong items; where there are hardly any, a cluster
    counts as one item.
    """
    wrong_clusters = {cluster for cluster, right in zip(clusters, outcomes, strict=True) if not right}
    effect = design_effect(outcomes, clusters)
    if len(wrong_clusters) >= MIN_WRONG_CLUSTERS:
        return effect
    return max(effect, len(outcomes) / max(1, len(set(clusters))))


def wilson(successes: int, n: int, confidence: float, effect: float = 1.0) -> Interval:
    """Return the two-sided score interval of a share (Wilson, 1927), which is [0, 1] for no items.

    `effect` is the design effect: the number of items that are worth one independent item.
    """
    if n == 0:
        return 0.0, 1.0
    z = _quantile((1 + confidence) / 2)
    share, z2, effective_n = successes / n, z * z, n / effect
    centre = (share + z2 / (2 * effective_n)) / (1 + z2 / effective_n)
    spread = share * (1 - share) / effective_n + z2 / (4 * effective_n * effective_n)
    half = z / (1 + z2 / effective_n) * sqrt(spread)
    # Rounding must not put a bound on the wrong side of the share itself.
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def clopper_pearson(successes: float, n: float, confidence: float, effect: float = 1.0) -> float:
    """Return the exact one-sided lower bound of a share (Clopper and Pearson, 1934)."""
    from scipy.stats import beta

    right, wrong = successes / effect, (n - successes) / effect
    return float(beta.ppf(1 - confidence, right, wrong + 1)) if right else 0.0


def design_effect(values: Sequence[float], clusters: Sequence[str]) -> float:
    """Return the variance of the mean relative to that of independent items; at least 1 (Kish, 1965)."""
    import numpy as np

    index, array = _index(clusters), np.asarray(values, dtype=float)
    n, k = len(array), int(index.max()) + 1 if len(array) else 0
    variance = float(array.var()) if n else 0.0
    if k < 2 or k == n or not variance:
        return 1.0
    residuals = np.bincount(index, weights=array - array.mean())
    return max(1.0, float(k / (k - 1) * (residuals**2).sum() / (n * variance)))


def cluster_bootstrap(values: Sequence[float], clusters: Sequence[str], confidence: float, seed: int = 0) -> Interval:
    """Return the percentile bootstrap interval of a mean, resampling whole clusters; [0, 1] for no values.

    For values other than right or wrong; for shares, `interval` has better coverage (`benchmarks/intervals.py`).
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
    """Two models, A and B, on the same items: B's share minus A's with its interval, and a test of no difference."""

    n: int
    clusters: int
    gained: int
    """Items on which B is right and A is wrong."""
    lost: int
    """Items on which A is right and B is wrong."""
    difference: float
    low: float
    high: float
    p: float
    effect: float
    """Design effect of the difference."""


def compare(a: Sequence[bool], b: Sequence[bool], clusters: Sequence[str], confidence: float) -> Pair:
    """Return the paired comparison of B with A.

    The interval is Agresti and Min's (Statistics in Medicine 24, 2005), at the effective number of independent items.
    The test is exact, by flipping the signs of whole clusters; it is McNemar's where each item is its own cluster.
    """
    changes = [int(right) - int(before) for before, right in zip(a, b, strict=True)]
    n, gained, lost = len(changes), changes.count(1), changes.count(-1)
    effect = design_effect(changes, clusters)
    effective_n = n / effect + 2
    up, down = (gained / effect + 0.5) / effective_n, (lost / effect + 0.5) / effective_n
    half = _quantile((1 + confidence) / 2) * sqrt((up + down - (up - down) ** 2) / effective_n)
    difference = (gained - lost) / n if n else 0.0
    return Pair(
        n=n,
        clusters=len(set(clusters)),
        gained=gained,
        lost=lost,
        difference=difference,
        low=max(-1.0, min(up - down - half, difference)),
        high=min(1.0, max(up - down + half, difference)),
        p=sign_flip_p(changes, clusters),
        effect=effect,
    )


def sign_flip_p(changes: Sequence[int], clusters: Sequence[str]) -> float:
    """Return the exact two-sided p of a sum this far from 0, if the sign of each cluster's sum is random."""
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
    """Return p-values corrected for testing all of them (Holm, 1979), in the same order."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, (p, place) in enumerate(sorted((p, place) for place, p in enumerate(p_values))):
        highest = max(highest, min(1.0, p * (len(p_values) - rank)))
        corrected[place] = highest
    return corrected


def items_needed(difference: float, changed: float, confidence: float, effect: float = 1.0) -> int:
    """Return the items that find a difference with probability `POWER`, if the share `changed` of items differs.

    Connor, Biometrics 43 (1987).
    """
    changed = max(changed, difference)  # the difference cannot exceed what changes
    reach = _quantile((1 + confidence) / 2) * sqrt(changed) + _quantile(POWER) * sqrt(changed - difference**2)
    return ceil(effect * (reach / difference) ** 2)


def clusters_needed(confidence: float) -> int:
    """Return the clusters that must all change in one direction before `sign_flip_p` can fall to 1 - confidence."""
    return ceil(1 - log2(1 - confidence))


def items_for_bound(floor: float, share: float, confidence: float, effect: float = 1.0) -> int | None:
    """Return the items with which this share's one-sided bound reaches the floor; None if the share is not above it."""
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
    """Return the value that this share of the values does not exceed (nearest rank)."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


def quantile_bound(values: Sequence[float], share: float, confidence: float) -> float | None:
    """Return a one-sided upper bound of a quantile for any distribution, or None if there are too few values.

    It is an order statistic: that of the least rank for which at least that many values are below the quantile with
    probability at most 1 - confidence. Computed without scipy, because the gate is read where it is not installed.
    """
    n = rank = len(values)
    term = above = share**n  # P(all n are below the quantile), then P(at least `rank` are)
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
    """Return each item's cluster as a number from 0."""
    import numpy as np

    index: np.ndarray = np.unique(np.asarray(clusters), return_inverse=True)[1]
    return index
