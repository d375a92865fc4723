"""Checks that need the counts of all rows: labels out of balance, styles and sources with few rows."""

from collections.abc import Iterable, Iterator, Mapping

from tuneline.stages.prepare.checks.problems import Problem

FEWEST_ROWS, FEWEST_OF_A_STYLE = 50, 30
RARE, COMMON = 0.2, 5.0
"""A label is out of balance if it has less than a fifth, or more than five times, of the median count of the labels."""


def check_balance(counts: Mapping[str, int], what: str) -> Iterator[Problem]:
    """Yield a problem for each label that is out of balance, the rarest first; `what` says what the labels are."""
    if len(counts) < 2:
        return
    ordered = sorted(counts.values())
    median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    for label, count in sorted(counts.items(), key=lambda item: item[1]):
        if count < RARE * median or count > COMMON * median:
            yield Problem("imbalance", "", 0, f"{what} {label!r} has {count} rows, the median is {median:g}")


def check_style_sizes(counts: Mapping[str, int]) -> Iterator[Problem]:
    """Yield a problem for each style with too few rows to be learned."""
    for style, count in counts.items():
        if count < FEWEST_OF_A_STYLE:
            yield Problem(
                "few_of_a_style", "", 0, f"style {style!r} has only {count} passages, {FEWEST_OF_A_STYLE} are advised"
            )


def check_source_sizes(sources: Iterable[tuple[str, int]]) -> Iterator[Problem]:
    """Yield a problem for each (name, number of rows) with few rows or none."""
    for name, rows in sources:
        if not rows:
            yield Problem("empty_source", name, 0, "no row is usable for training")
        elif rows < FEWEST_ROWS:
            yield Problem("small_source", name, 0, f"{rows} rows")
