"""The catalogue of tools: dotted names, JSON Schema for arguments, and the names that models see.

OpenAI's pattern for a tool's name is `^[a-zA-Z0-9_-]{1,64}$` and `llama4_pythonic` takes identifiers only, so
`whatsapp.send` is written `whatsapp__send` wherever a model or an API sees it. The mapping is one to one.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from tuneline.configs.section import StrictModel, explain_first
from tuneline.configs.tool_entries import ToolEntry, read_tool
from tuneline.configs.tool_names import LONGEST_WIRE_NAME, WIRE_NAME, dotted_name, wire_name
from tuneline.configs.yaml_loader import read_yaml
from tuneline.core.errors import BadData
from tuneline.core.user_files import read_json, refuse_deep, refuse_non_json

FORMS = "`tools: {name: {description, parameters}}`, a list of OpenAI's tools, and MCP's answers to tools/list"
"""The forms in which a file has a catalogue."""


class Phrases(StrictModel):
    """Phrasings of requests for a tool in one language; `{name}` is replaced by an argument. Models never see these."""

    what: str
    """What the tool does, in the imperative: `create a document`."""
    say: tuple[str, ...] = ()
    """Requests for training."""
    ask: tuple[str, ...] = ()
    """Requests for tests alone."""


class Tool(StrictModel):
    """One tool: what it does and the JSON Schema (an object) of its arguments."""

    description: str
    parameters: dict[str, Any]
    phrases: dict[str, Phrases] = Field({}, exclude=True)
    """Phrasings by language (ISO 639-1), for examples generated from the catalogue."""

    @field_validator("parameters")
    @classmethod
    def _check_parameters(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """Check what is read from the schema here; a validator of JSON Schema checks the rest where it is used."""
        refuse_deep(parameters)
        refuse_non_json(parameters, "parameters")
        properties, required = parameters.get("properties", {}), parameters.get("required", [])
        if not isinstance(properties, dict) or not all(isinstance(schema, dict) for schema in properties.values()):
            raise ValueError("properties: an object, with an object for each argument")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise ValueError("required: a list of names")
        for name, schema in properties.items():
            if not all(isinstance(schema.get(key, []), list) for key in ("enum", "examples")):
                raise ValueError(f"properties.{name}: enum and examples are lists")
        return parameters

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(self.parameters.get("required", ()))

    @property
    def properties(self) -> dict[str, dict[str, Any]]:
        properties: dict[str, dict[str, Any]] = self.parameters.get("properties", {})
        return properties


class Catalogue(StrictModel):
    """Tools by dotted name."""

    tools: dict[str, Tool]

    @model_validator(mode="after")
    def _check_names(self) -> "Catalogue":
        for name in self.tools:
            if len(wire_name(name)) > LONGEST_WIRE_NAME:
                raise ValueError(f"{name!r}: {wire_name(name)!r} is longer than {LONGEST_WIRE_NAME} characters")
            if not WIRE_NAME.fullmatch(wire_name(name)):
                raise ValueError(f"{name!r}: words of letters, digits, '_' and '-', joined by '.', only")
            if dotted_name(wire_name(name)) != name:
                raise ValueError(f"{name!r}: write {dotted_name(wire_name(name))!r}: '__' is how models see a '.'")
        return self

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.tools)

    def openai(self, tools: Sequence[str | dict[str, Any]] | None = None) -> list[dict[str, Any]]:
        """Return the tools (None: all) as the `tools` of an OpenAI chat request, under their wire names.

        A tool is given by its name, or is such an entry already, as in a row that brings its own.
        """
        return [
            tool
            if isinstance(tool, dict)
            else {"type": "function", "function": {"name": wire_name(tool), **self.tools[tool].model_dump()}}
            for tool in (self.names if tools is None else tools)
        ]


def load_catalogue(path: Path) -> Catalogue:
    """Return the catalogue in a YAML or JSON file: ours, a list of OpenAI's tools, or the answer to MCP's tools/list.

    Raises:
        BadData: unreadable, not a catalogue, a name that cannot be mapped, or a required argument that is not there.
    """
    value = read_json(path, BadData) if path.suffix == ".json" else read_yaml(path, BadData)
    try:
        catalogue = Catalogue.model_validate(_from_list(value) or value)
    except ValidationError as error:
        raise BadData(f"{path}: not a catalogue of tools: {explain_first(error)}; known are {FORMS}") from None
    except ValueError as error:
        raise BadData(f"{path}: {error}") from None
    for name, tool in catalogue.tools.items():
        if undescribed := [argument for argument in tool.required if argument not in tool.properties]:
            raise BadData(f"{path}: tools.{name}.parameters.required: {undescribed[0]!r} is not among its properties")
    return catalogue


def _from_list(value: Any) -> dict[str, Any] | None:
    """Return a catalogue of the tools in a list, or None if the value has no list of them.

    Raises:
        ValueError: an entry is no tool, or its name is taken; or it is a description of an HTTP API.
    """
    if isinstance(value, dict) and ("openapi" in value or "swagger" in value):
        raise ValueError(
            "a description of an HTTP API (OpenAPI), not a catalogue of tools; `tuneline tools import` makes one of it"
        )
    if isinstance(value, dict) and isinstance(value.get("result"), dict):  # the whole answer of an MCP server
        value = value["result"]
    entries = value.get("tools", value.get("functions")) if isinstance(value, dict) else value
    if not isinstance(entries, list):
        return None
    if not entries:
        raise ValueError(f"not a catalogue of tools: the list is empty; known are {FORMS}")
    tools: dict[str, dict[str, Any]] = {}
    for tool in map(read_tool, entries):
        name = dotted_name(_same_name(tool))
        if name in tools:
            raise ValueError(f"two tools are called {tool.written!r}")
        tools[name] = {"description": tool.description, "parameters": tool.parameters}
    return {"tools": tools}


def _same_name(tool: ToolEntry) -> str:
    """Return the name that models see. Raises ValueError if it is not the tool's own: calls would reach nothing."""
    if tool.wire != wire_name(tool.written):
        raise ValueError(f"tool {tool.written!r}: letters, digits, '_', '-' and '.' only")
    return tool.wire
