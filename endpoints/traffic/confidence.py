"""Confidence sequences: bounds that hold at all times together, so that looking often costs nothing.

A difference D with estimated variance V has information I = 1/V. The process I·(D - true) behaves as a Brownian motion
at time I (the sequential central limit theorem for randomised comparisons; Waudby-Smith et al., "Time-uniform central
limit theory and asymptotic confidence sequences", Annals of Statistics 2024), and stays below the one-sided normal
mixture boundary of Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence
sequences", Annals of Statistics 2021, section 3.2, with probability 1 - alpha at all times together:

    B(I) = sqrt(2 (I + rho) log(1 + sqrt((I + rho) / rho) / (2 alpha)))

so that true > D - B(I) / I. `benchmarks/traffic.py` holds the error rates by simulation, with sticky units, bursts and
drift. All functions take numbers or arrays.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

Numbers = Any
"""A float, or an array of them."""


@dataclass
class Sums:
    """Sums over the units of one side: what a ratio and its variance need, updated with each request."""

    requests: Numbers = 0.0
    """N: requests that count."""
    good: Numbers = 0.0
    """S: their outcomes, 0 to 1 each; of pairs, differences from -1 to 1."""
    squares: Numbers = 0.0
    """Of the outcomes."""
    good_good: Numbers = 0.0
    """Sum over units of s², with s the unit's sum of outcomes."""
    good_count: Numbers = 0.0
    """Sum over units of s·n, with n the unit's requests."""
    count_count: Numbers = 0.0
    """Sum over units of n²."""
    units: Numbers = 0.0

    def add(self, s: Numbers, n: Numbers, outcome: Numbers, counts: Numbers = 1.0) -> None:
        """Add a request of a unit that had sum `s` and `n` requests; `counts` is 0 where it does not count."""
        self.requests = self.requests + counts
        self.good = self.good + counts * outcome
        self.squares = self.squares + counts * outcome**2
        self.good_good = self.good_good + counts * (2 * s * outcome + outcome**2)
        self.good_count = self.good_count + counts * (s + n * outcome + outcome)
        self.count_count = self.count_count + counts * (2 * n + 1)
        self.units = self.units + counts * (n == 0)

    def replace(self, s: Numbers, n: Numbers, before: Numbers, outcome: Numbers) -> None:
        """Change the outcome of a request that was added, of a unit that has sum `s` and `n` requests."""
        change = outcome - before
        self.good = self.good + change
        self.squares = self.squares + outcome**2 - before**2
        self.good_good = self.good_good + 2 * s * change + change**2
        self.good_count = self.good_count + n * change

    @property
    def mean(self) -> Numbers:
        return self.good / np.maximum(self.requests, 1)

    def variance(self, *, paired: bool = False) -> Numbers:
        """Return the variance of the mean, by units (Cochran, "Sampling Techniques", section 6.4, ratio of totals).

        It is at least that of independent requests whose mean is drawn towards the middle by two of each kind (Agresti
        and Coull 1998): a side without a single failure is not certain.
        """
        requests, mean = np.maximum(self.requests, 1), self.mean
        by_units = (self.good_good - 2 * mean * self.good_count + mean**2 * self.count_count) / requests**2
        least = (self.squares + 2) / (requests + 4)
        if not paired:
            middle = (self.good + 2) / (requests + 4)
            least = middle * (1 - middle)
        return np.maximum(by_units, least / requests)


def radius(variance: Numbers, alpha: float, resolution: float) -> Numbers:
    """Return how far the truth is from an estimate at most, on one side, at all times with probability 1 - alpha.

    The boundary is narrowest about where it resolves a difference of `resolution`.
    """
    information, rho = 1 / variance, _rho(alpha, resolution)
    boundary = np.sqrt(2 * (information + rho) * np.log1p(np.sqrt((information + rho) / rho) / (2 * alpha)))
    return boundary / information


def requests_to_resolve(distance: float, variance_of_one: float, alpha: float, resolution: float) -> int:
    """Return about how many requests bring the radius down to `distance`, with that variance for a single one."""
    low, high = 1.0, 1e9
    if distance <= 0 or radius(variance_of_one / high, alpha, resolution) > distance:
        return int(high)
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if radius(variance_of_one / middle, alpha, resolution) <= distance else (middle, high)
    return round(high)


def _rho(alpha: float, resolution: float) -> float:
    """Return the mixture's parameter for the information at which `resolution` is three standard errors (Howard 2021,
    section 3.5, by the approximation of W_{-1})."""
    wanted = (3 / resolution) ** 2
    spread = 2 * np.log(1 / alpha)
    return float(wanted / (spread + np.log1p(spread)))
