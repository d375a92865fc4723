"""Agreement of two raters, or of a judge with people, beyond chance."""

import warnings
from collections.abc import Sequence


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Return Cohen's kappa of two raters' labels.

    It is 1 where both are equal, also where all labels are the same, for which chance agreement leaves it undefined.
    """
    from sklearn.metrics import cohen_kappa_score

    if list(first) == list(second):
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(cohen_kappa_score(list(first), list(second)))
