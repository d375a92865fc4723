"""Whether the validation rows have enough passages of each style for a suite that recognizes styles."""

from collections.abc import Collection, Mapping

from tuneline.configs.evaluation import Evaluate, Turn
from tuneline.core.errors import BadRecipe

MIN_PASSAGES = 2
"""Passages per style; with fewer, it is unknown how much the style's own passages differ from each other."""


def refuse_few_passages(settings: Evaluate, styles: Collection[str], validation_rows: Mapping[str, int]) -> None:
    """Check the numbers of validation rows by style, if a suite asks for styles of the run.

    Raises:
        BadRecipe: there are fewer than two styles, or one has too few validation rows.
    """
    if asks_for_styles(settings) and (fault := find_few_passages(styles, validation_rows)):
        raise BadRecipe(
            f"evaluate.suites: style: {fault}; raise data.validation_share, or give each style several documents"
        )


def asks_for_styles(settings: Evaluate) -> bool:
    """Return whether a suite has requests whose answers must be in a style of the run."""
    turns: list[Turn] = [turn for suite in settings.suites for item in suite.items for turn in (item, *item.then)]
    return any(suite.styles for suite in settings.suites) or any(turn.style for turn in turns)


def find_few_passages(styles: Collection[str], validation_rows: Mapping[str, int]) -> str | None:
    """Return what is missing for a classifier of the styles, or None."""
    counts = {style: validation_rows.get(style, 0) for style in sorted(styles)}
    if len(counts) >= 2 and min(counts.values()) >= MIN_PASSAGES:
        return None
    available = ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
    return f"needs {MIN_PASSAGES} held-out passages of two styles; there are {available}"
