"""Intervals for shares: a number is never shown without one."""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

RESAMPLES = 2_000


def wilson(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """The two-sided score interval of a share (Wilson, 1927); all of [0, 1] when nothing was asked."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, z2 = successes / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Rounding must not put a bound on the wrong side of the share itself.
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def cluster_bootstrap(
    outcomes: Sequence[bool], clusters: Sequence[str], confidence: float, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the share when whole clusters are drawn again, with replacement.

    Items of one sentence frame are right or wrong together, so they say less than as many independent ones.
    """
    import numpy as np

    if not outcomes:
        return 0.0, 1.0
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sizes = np.bincount(index)
    right = np.bincount(index, weights=np.asarray(outcomes, dtype=float))
    drawn = np.random.default_rng(seed).integers(0, len(sizes), (RESAMPLES, len(sizes)))
    shares = right[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(shares, [tail, 1 - tail])
    return float(low), float(high)
