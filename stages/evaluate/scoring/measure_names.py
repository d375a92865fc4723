"""What an answer of a suite has to be to be right: the words that tables put above the shares."""

from collections.abc import Mapping
from typing import Any

from tuneline.stages.evaluate.answers import IN_WORDS

RIGHT_TOOL, RIGHT_ANSWER = "right tool", "right answer"


def measure_name(metrics: Mapping[str, Any], suite: str) -> str:
    """Return `RIGHT_ANSWER` for a suite whose answers are all in words, else `RIGHT_TOOL`; from evaluate's metrics."""
    expected = {row["tool"] for row in metrics.get("handlers", []) if row["suite"] == suite}
    return RIGHT_ANSWER if expected == {IN_WORDS} else RIGHT_TOOL
