"""The catalogue of tools: dotted names, JSON Schema for arguments, and the names that models see.

OpenAI's pattern for a tool's name is `^[a-zA-Z0-9_-]{1,64}$` and `llama4_pythonic` takes identifiers only, so
`whatsapp.send` is written `whatsapp__send` wherever a model or an API sees it. The mapping is one to one.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from tuneline.configs.section import StrictModel, explain_first
from tuneline.configs.yaml_loader import read_yaml
from tuneline.core.errors import BadData
from tuneline.core.user_files import refuse_deep, refuse_non_json

DOTTED = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*(?:\.[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*)*")
LONGEST_WIRE_NAME = 64


def wire_name(dotted: str) -> str:
    """Return the name that a model sees: each `.` becomes `__`."""
    return dotted.replace(".", "__")


def dotted_name(wire: str) -> str:
    """Return the catalogue's name for a name that a model wrote; the inverse of `wire_name`."""
    return wire.replace("__", ".")


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
            if not DOTTED.fullmatch(name):
                raise ValueError(f"{name!r}: words of letters and digits, joined by '.' or one '_', only")
            if len(wire_name(name)) > LONGEST_WIRE_NAME:
                raise ValueError(f"{name!r}: {wire_name(name)!r} is longer than {LONGEST_WIRE_NAME} characters")
        return self

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.tools)

    def openai(self, names: tuple[str, ...] | list[str] | None = None) -> list[dict[str, Any]]:
        """Return the named tools (None: all) as the `tools` of an OpenAI chat request, under their wire names."""
        return [
            {"type": "function", "function": {"name": wire_name(name), **self.tools[name].model_dump()}}
            for name in (self.names if names is None else names)
        ]


def load_catalogue(path: Path) -> Catalogue:
    """Return the catalogue in a YAML file.

    Raises:
        BadData: unreadable, not a catalogue, a name that cannot be mapped, or a required argument that is not there.
    """
    try:
        catalogue = Catalogue.model_validate(read_yaml(path, BadData))
    except ValidationError as error:
        raise BadData(f"{path}: not a catalogue of tools: {explain_first(error)}") from None
    for name, tool in catalogue.tools.items():
        if undescribed := [argument for argument in tool.required if argument not in tool.properties]:
            raise BadData(f"{path}: tools.{name}.parameters.required: {undescribed[0]!r} is none of its properties")
    return catalogue
