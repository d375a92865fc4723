"""What an import returns, and the names it gives: words of letters, digits, '_' and '-', joined by dots."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from tuneline.configs.catalogue import Catalogue
from tuneline.configs.tool_names import LONGEST_WIRE_NAME, wire_name

HASH_CHARACTERS = 8
"""Of a name that is too long, in place of its end."""


@dataclass(frozen=True)
class ImportedTools:
    """A catalogue, and what its user should know: what was left out or renamed, and which variables hold keys."""

    catalogue: Catalogue
    notes: tuple[str, ...] = ()


def make_catalogue(tools: dict[str, dict[str, Any]]) -> Catalogue:
    """Return the catalogue of tools by name, each with `description` and `parameters`.

    Raises:
        ValueError: one of them is no tool.
    """
    return Catalogue.model_validate({"tools": {name: _with_required(tool) for name, tool in tools.items()}})


def _with_required(tool: dict[str, Any]) -> dict[str, Any]:
    """Return a tool with a property for each required argument: a schema may demand what it does not describe."""
    parameters = dict(tool["parameters"])
    properties = parameters.get("properties", {})
    undescribed = [name for name in parameters.get("required", ()) if name not in properties]
    if undescribed:
        parameters["properties"] = properties | {name: {} for name in undescribed}
    return {"description": tool["description"], "parameters": parameters}


def to_tool_name(written: str, taken: dict[str, Any]) -> str:
    """Return a name that catalogues, APIs and engines take, and no other tool has: `repos/get-content` is
    `repos.get-content`, and a second one `repos.get-content_2`."""
    parts = (re.sub(r"[^A-Za-z0-9-]+", "_", part).strip("_") for part in re.split(r"[./:]+|__+", written))
    name = ".".join(part for part in parts if part) or "tool"
    name = _shorten(name, written)
    number, free = 2, name
    while free in taken:
        free, number = _shorten(f"{name}_{number}", f"{written} {number}"), number + 1
    return free


def _shorten(name: str, written: str) -> str:
    if len(wire_name(name)) <= LONGEST_WIRE_NAME:
        return name
    digest = hashlib.sha256(written.encode()).hexdigest()[:HASH_CHARACTERS]
    end = LONGEST_WIRE_NAME - HASH_CHARACTERS - 1 - (len(wire_name(name)) - len(name))
    return f"{name[:end].rstrip('._')}_{digest}"
