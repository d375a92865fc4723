"""Tools as datasets, APIs and servers describe them, read as name, description and a JSON Schema of the arguments.

OpenAI      {"type": "function", "function": {"name", "description", "parameters"}}, or the function alone
MCP         {"name", "description", "inputSchema"};  Anthropic: input_schema
xLAM        parameters are the arguments themselves: {"city": {"type": "str", "description": …}}
BFCL        parameters of type "dict", arguments of type "float", "tuple", "any"
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tuneline.configs.tool_names import LONGEST_WIRE_NAME, WIRE_NAME, wire_name

SCHEMA_KEYS = ("parameters", "inputSchema", "input_schema", "arguments")
"""Where a tool has the schema of its arguments, the first that is there."""
_FUNCTION_KEYS = frozenset(("name", "description", "required", "type", *SCHEMA_KEYS))
_JSON_TYPES = frozenset(("object", "array", "string", "number", "integer", "boolean", "null"))
_TYPES = {
    "dict": "object",
    "map": "object",
    "hashmap": "object",
    "float": "number",
    "double": "number",
    "decimal": "number",
    "int": "integer",
    "long": "integer",
    "str": "string",
    "char": "string",
    "date": "string",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "none": "null",
}
"""JSON Schema's name for the types that Python, Java and datasets name otherwise. Any other name is any type."""
_VALUES = ("enum", "const", "default", "examples", "example")
"""Keywords whose values are data, not schemas."""
_GENERIC = re.compile(r"(\w+)\[(.*)\]", re.S)


@dataclass(frozen=True)
class ToolEntry:
    """A tool as it is read: its name as it is written, and for models and APIs; what it does; its arguments' schema."""

    written: str
    wire: str
    description: str
    parameters: dict[str, Any]
    unused: tuple[str, ...] = ()
    """Keys that nothing reads."""
    has_other_types: bool = False
    """Whether types were named otherwise than JSON Schema does."""


def read_tool(entry: Any) -> ToolEntry:
    """Return the tool that an entry of a list of tools describes.

    Raises:
        ValueError: it is no tool, its name cannot be one, or its schema is no object.
    """
    function = entry.get("function", entry) if isinstance(entry, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"].strip():
        raise ValueError("an entry is a name or {type: function, function: {name, description, parameters}}")
    name = function["name"]
    schema = next((function[key] for key in SCHEMA_KEYS if function.get(key) is not None), None)
    if schema is not None and not isinstance(schema, Mapping):
        raise ValueError(f"tool {name!r}: parameters: expected an object, not {type(schema).__name__}")
    parameters, has_other_types = read_parameters(schema or {}, function.get("required"))
    unused = [key for key in function.keys() - _FUNCTION_KEYS if function[key] not in (None, "", [], {})]
    if function is not entry:
        unused += [key for key in entry.keys() - {"type", "function"} if entry[key] not in (None, "", [], {})]
    description = function.get("description") or ""
    return ToolEntry(name, to_wire(name), str(description), parameters, tuple(sorted(unused)), has_other_types)


def to_wire(name: str) -> str:
    """Return the name under which models and APIs see a tool: dots are `__`, what OpenAI refuses is `_`.

    Raises:
        ValueError: it is too long.
    """
    wire = re.sub(r"[^A-Za-z0-9_-]+", "_", wire_name(name.strip()))
    if not WIRE_NAME.fullmatch(wire):
        raise ValueError(f"tool {name[:80]!r}: a name has at most {LONGEST_WIRE_NAME} characters")
    return wire


def read_parameters(written: Mapping[str, Any], required: Any = None) -> tuple[dict[str, Any], bool]:
    """Return (the JSON Schema of a tool's arguments, whether types were named otherwise).

    `required` are names beside the schema. Nulls, which Arrow writes for keys that others have, are left out.
    """
    schema: dict[str, Any] = _without_nulls(written)
    if not schema or _has_bare_arguments(schema):
        schema = {"type": "object", "properties": dict(schema)}
    if isinstance(required, list) and required and "required" not in schema:
        schema["required"] = required
    if isinstance(schema.get("properties"), dict):
        schema["properties"] = {name: {} if inner is True else inner for name, inner in schema["properties"].items()}
    return _with_json_types(schema)


def _has_bare_arguments(schema: Mapping[str, Any]) -> bool:
    """Return whether these are the arguments themselves, each with its schema, as xLAM has them."""
    if not all(isinstance(value, Mapping) for value in schema.values()):
        return False
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and not isinstance(properties.get("type"), str):
        return False
    return not any(key.startswith("$") for key in schema)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: item if key in _VALUES and not isinstance(item, Mapping) else _without_nulls(item)
            for key, item in value.items()
            if item is not None or (key == "default" and _allows_null(value))
        }
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _allows_null(schema: Mapping[str, Any]) -> bool:
    """Return whether a schema says that null is a value, so that a default of null is one too."""
    kind, choices = schema.get("type"), schema.get("anyOf") or schema.get("oneOf") or []
    if schema.get("nullable") is True or (isinstance(kind, list) and "null" in kind):
        return True
    return isinstance(choices, list) and any(isinstance(c, Mapping) and c.get("type") == "null" for c in choices)


def _with_json_types(schema: Any) -> tuple[Any, bool]:
    """Return (the schema with the types of JSON Schema, whether others were there)."""
    if not isinstance(schema, dict):
        return schema, False
    changed = False
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "type" and isinstance(value, str) and value not in _JSON_TYPES:
            result |= _read_type(value)
            changed = True
        elif key in ("properties", "$defs", "definitions", "patternProperties") and isinstance(value, dict):
            inner = {name: _with_json_types(item) for name, item in value.items()}
            result[key] = {name: item for name, (item, _) in inner.items()}
            changed |= any(was for _, was in inner.values())
        elif key in ("items", "additionalProperties", "not", "if", "then", "else") and isinstance(value, dict):
            result[key], was = _with_json_types(value)
            changed |= was
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
            pairs = [_with_json_types(item) for item in value]
            result[key] = [item for item, _ in pairs]
            changed |= any(was for _, was in pairs)
        elif key == "optional" and isinstance(value, bool):
            continue
        else:
            result.setdefault(key, value)
    return result, changed


def _read_type(name: str) -> dict[str, Any]:
    """Return the schema of a type that Python or a dataset names: `List[int]`, `Optional[str]`, `str, optional`."""
    name = re.sub(r",?\s*\boptional\b(?!\[)\.?|\s*=.*$", "", name.strip(), flags=re.I | re.S).strip()
    if match := _GENERIC.fullmatch(name):
        outer, inner = match[1].lower(), list(_split_types(match[2]))
        if outer == "optional":
            return _read_type(inner[0])
        if outer == "union":
            types = [schema.get("type") for schema in map(_read_type, inner)]
            return {"type": types} if all(isinstance(kind, str) for kind in types) else {}
        kind = _TYPES.get(outer, outer)
        if kind == "array" and inner:
            items = _read_type(inner[0]) if outer not in ("tuple",) or len(set(inner)) == 1 else {}
            return {"type": "array", "items": items}
        return {"type": kind} if kind in _JSON_TYPES else {}
    kind = _TYPES.get(name.lower(), name.lower())
    return {"type": kind} if kind in _JSON_TYPES else {}


def _split_types(text: str) -> Iterator[str]:
    """Yield the types between commas outside of brackets."""
    depth, start = 0, 0
    for position, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if character == "," and not depth:
            yield text[start:position].strip()
            start = position + 1
    yield text[start:].strip()
