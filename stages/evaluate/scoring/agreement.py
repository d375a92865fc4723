"""Agreement of two people, or of a judge with a person, beyond what chance would give."""

import warnings
from collections.abc import Sequence


def cohen_kappa(one: Sequence[str], other: Sequence[str]) -> float:
    """Cohen's kappa; 1 where both gave one and the same label to all, which leaves chance nothing to explain."""
    from sklearn.metrics import cohen_kappa_score

    if list(one) == list(other):
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(cohen_kappa_score(list(one), list(other)))
