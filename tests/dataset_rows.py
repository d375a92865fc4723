"""Rows of a dataset as the reader takes them, and what a row says."""

import json
from pathlib import Path
from typing import Any

from tuneline.configs.data import Source
from tuneline.stages.prepare.checks.problems import Problem
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.formats.reader import SourceRow, read_file
from tuneline.stages.prepare.rows import Row

FUNCTION = {
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"name": "get_weather", "arguments": {"city": "Rome"}}


def read(tmp_path: Path, *rows: Any, **source: Any) -> tuple[list[Row], list[Problem]]:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    results = list(read_file(file, Toolbox(None), Source(path=file, **source)))
    return (
        [result.row for result in results if isinstance(result, SourceRow)],
        [result for result in results if isinstance(result, Problem)],
    )


def said(row: Row) -> list[tuple[str, Any]]:
    """Return (role, text) of each turn, and for calls their (name, arguments) behind the text, if there is one."""
    turns: list[tuple[str, Any]] = []
    for message in row.messages:
        calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
        turns.append(
            (message.role, [message.content, *calls] if calls and message.content else calls or message.content)
        )
    return turns
