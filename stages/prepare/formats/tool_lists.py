"""Takes the list of tools out of a system message that has it as text: Hermes, Glaive, ToolACE.

The template lists a row's tools itself, in the base's own way, and so do servers: a second list in another form, with
other instructions on how to write calls, is not what a request will look like.
"""

import json
import re
from typing import Any

from tuneline.core.python_literals import parse_python

_INSTRUCTIONS = re.compile(
    r"\s*you are (?:a function[- ]calling ai model|an expert in composing functions"
    r"|a helpful assistant with access to (?:the following )?(?:functions|tools))",
    re.I,
)
"""How the datasets begin a system message that is nothing but the list and how to call what it lists."""


def take_tools(system: str) -> tuple[list[dict[str, Any]], str]:
    """Return (the tools that a system message lists as JSON, the rest of it); ([], the message) if it lists none.

    The rest is empty if it is one of the datasets' own messages on how to call tools.
    """
    if '"parameters"' not in system and "'parameters'" not in system and '"name"' not in system:
        return [], system
    tools: list[dict[str, Any]] = []
    rest, position = [], 0
    while position < len(system):
        start = min((at for at in (system.find(mark, position) for mark in "[{") if at >= 0), default=-1)
        if start < 0:
            break
        value, end = _decode(system, start)
        found = value if isinstance(value, list) else [value]
        if found and all(_is_tool(tool) for tool in found):
            tools += found
            rest.append(system[position:start])
            position = end
        else:
            rest.append(system[position : start + 1])
            position = start + 1
    rest.append(system[position:])
    return (tools, _without_instructions("".join(rest))) if tools else ([], system)


def _decode(text: str, start: int) -> tuple[Any, int]:
    try:
        return json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        pass
    end = text.find("\n", start)
    line = text[start : end if end >= 0 else len(text)]
    value = parse_python(line) if line.rstrip().endswith(("]", "}")) else None
    return value, start + len(line)


def _is_tool(value: Any) -> bool:
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return False
    return "parameters" in function or "description" in function


def _without_instructions(text: str) -> str:
    """Return what else a system message says; nothing if it is one of the datasets' own on how to call tools."""
    text = re.sub(r"<tools>\s*</tools>|</?tools>", "", text)
    text = re.sub(r"\A\s*SYSTEM:\s*", "", text)
    return "" if _INSTRUCTIONS.match(text) else text.strip()
