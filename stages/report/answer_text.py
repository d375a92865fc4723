"""What a model answered, as one line of text."""

from collections.abc import Mapping
from typing import Any

from tuneline.stages.evaluate.answers import Answer

MAX_TEXT = 400
"""Characters kept of an answer that calls no tool."""


def format_call(call: Mapping[str, Any]) -> str:
    """Return a tool call as a line of code."""
    if call["name"] is None:
        return ", ".join(call["words"]) if "words" in call else "no call"
    arguments = call["arguments"]
    if isinstance(arguments, dict):
        inner = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
    else:
        inner = "no JSON object" if "raw" in call else "…"
    return f"{call['name']}({inner})"


def format_answer(answer: Answer) -> str:
    """Return an answer's calls, or its error or the beginning of its text if it has none."""
    return "; ".join(map(format_call, answer.calls)) or f"no call: {answer.error or answer.text}"[:MAX_TEXT]
