"""Requests of the training rows, each with the tool that answers it."""

import json
from pathlib import Path
from typing import Any

from tuneline.engines.tool_calls import ToolCall


def training_pairs(rows: Path) -> tuple[list[str], list[str]]:
    """Return the user's texts in a file of rows, and the tool called for each.

    Rows with several user turns, no call or several calls are left out.
    """
    pairs = [pair for line in rows.open(encoding="utf-8") if (pair := _training_pair(json.loads(line)["messages"]))]
    return [text for text, _ in pairs], [tool for _, tool in pairs]


def _training_pair(messages: list[dict[str, Any]]) -> tuple[str, str] | None:
    texts = [m["content"] for m in messages if m["role"] == "user"]
    calls = [call for m in messages if m["role"] == "assistant" for call in m.get("tool_calls") or ()]
    if len(texts) != 1 or len(calls) != 1:
        return None
    return texts[0], ToolCall.from_openai(calls[0]).name
