"""Validators for the arguments of tools, whose schemas anybody may have written.

A schema is read offline, and its references only lead to other places in it: a validator would fetch any other from
the network or the disk. References that double with every step are refused, since checking them would never end.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

MAX_SIZE = 100_000
"""Objects and lists in a schema with references written out. Those of our catalogues have 20 at most."""
MAX_VISITS = 1_000_000
"""Of a schema on one call's arguments, where it refers to itself: about a second."""
ELSEWHERE = ("$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "id")
"""Keywords that change what references mean; `$id` of the whole schema does not."""
VALUES = ("enum", "const", "default", "examples", "example")
"""Keywords whose values are data, not schemas."""
DRAFT_4 = "http://json-schema.org/draft-04/schema#"
"""Tried for a schema that names no draft and is none of the latest, as with `exclusiveMinimum: true`."""
IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas")
"""Keywords whose schemas apply to the same value as the schema they are in."""


def build_validator(parameters: Mapping[str, Any]) -> tuple[Any, int | None]:
    """Return a validator for a tool's arguments, and how deep they may be nested (None: as deep as any value).

    Raises:
        ValueError: it is no JSON Schema, or its references lead elsewhere or without end.
    """
    import jsonschema_rs

    schema = _closed(_with_null_types(dict(parameters)))
    try:
        max_depth = _check_references(schema)
    except RecursionError:
        raise ValueError("$ref: too many references inside each other") from None
    try:
        return jsonschema_rs.validator_for(schema, offline=True), max_depth
    except jsonschema_rs.ReferencingError as error:
        raise ValueError(f"$schema or $ref: {str(error)[:200]}") from None
    except jsonschema_rs.ValidationError as error:
        first = error
    if "$schema" not in schema:
        try:
            return jsonschema_rs.validator_for({"$schema": DRAFT_4, **schema}, offline=True), max_depth
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError):
            pass
    place = ".".join(map(str, first.instance_path))
    raise ValueError(f"{place or 'schema'}: {first.message[:200]}")


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a tool's arguments with those that it does not name refused, if it does not say itself."""
    if "additionalProperties" in schema or "unevaluatedProperties" in schema:
        return schema
    required, properties = schema.get("required"), schema.get("properties", {})
    if isinstance(required, list) and isinstance(properties, dict) and not properties:
        schema = schema | {"properties": {name: {} for name in required if isinstance(name, str)}}
    if not any(key in schema for key in ("$ref", *IN_PLACE)):
        return schema | {"additionalProperties": False}
    is_recent = "$schema" not in schema or any(draft in str(schema["$schema"]) for draft in ("2019", "2020"))
    return schema | {"unevaluatedProperties": False} if is_recent else schema


def _with_null_types(node: Any) -> Any:
    """Return a schema with `nullable: true`, as OpenAPI has it, written as a type."""
    if isinstance(node, list):
        return [_with_null_types(item) for item in node]
    if not isinstance(node, dict):
        return node
    return write_null_type({key: value if key in VALUES else _with_null_types(value) for key, value in node.items()})


def write_null_type(node: dict[str, Any]) -> dict[str, Any]:
    """Return an object of a schema with its own `nullable`, as OpenAPI 3.0 has it, written as a type."""
    if not isinstance(node.get("nullable"), bool):
        return node
    result = {key: value for key, value in node.items() if key != "nullable"}
    if not node["nullable"]:
        return result
    if isinstance(result.get("enum"), list) and None not in result["enum"]:
        result["enum"] = [*result["enum"], None]
    kind = result.get("type")
    if isinstance(kind, str):
        result["type"] = [kind, "null"]
    elif kind is None and any(key in result for key in ("$ref", *IN_PLACE)):
        return {"anyOf": [result, {"type": "null"}]}
    return result


def _check_references(schema: dict[str, Any]) -> int | None:
    """Return how deep arguments may be nested, if references double with each level; None if they do not."""
    references = [
        reference
        for node in _walk(schema)
        for key, reference in node.items()
        if key == "$ref" and isinstance(reference, str) and not _refuse_elsewhere(node, schema)
    ]
    for node in _walk(schema):
        for key in ("$dynamicRef", "$recursiveRef"):
            if isinstance(node.get(key), str) and not node[key].startswith("#"):
                raise ValueError(f"{key}: {node[key][:60]!r}: points to nothing in this schema")
    if not references:
        return None
    checked: set[int] = set()
    for node in _walk(schema):
        _refuse_loop(node, schema, set(), checked)
    sizes: dict[int, int] = {}
    if not _measure(schema, schema, sizes, set()) or len(references) == 1:
        return None
    return int(math.log(MAX_VISITS, len(references)))


def _refuse_elsewhere(node: dict[str, Any], schema: dict[str, Any]) -> bool:
    """Raise ValueError if references in this schema, or to it, need more than its own text to be resolved."""
    for key in ELSEWHERE:
        if isinstance(node.get(key), str) and not (node is schema and key in ("$id", "id")):
            raise ValueError(f"{key}: {node[key][:60]!r}: only $ref is supported, and it must begin with #/")
    return False


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects in a schema."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _walk(item)


def resolve_reference(reference: str, schema: dict[str, Any]) -> Any:
    """Return the place in the schema that a reference (RFC 6901) leads to."""
    place: Any = schema
    if re.fullmatch(r"#[A-Za-z_][-\w.]*", reference):
        for node in _walk(schema):
            if reference[1:] in (node.get("$anchor"), node.get("$dynamicAnchor")):
                return node
    parts = unquote(reference).split("/")
    try:
        for part in parts[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            place = place[int(part)] if isinstance(place, list) else place[part]
    except (LookupError, TypeError, ValueError):
        parts = []
    if parts[:1] != ["#"]:
        raise ValueError(f"$ref: {reference[:60]!r}: points to nothing in this schema")
    return place


def _refuse_loop(node: Any, schema: dict[str, Any], above: set[int], checked: set[int]) -> None:
    """Raise ValueError if a schema leads back to itself while it still applies to the same value."""
    if id(node) in above:
        raise ValueError("$ref: refers to the schema that contains it")
    if not isinstance(node, dict) or id(node) in checked:
        return
    above.add(id(node))
    for inner in _schemas_in_place(node, schema):
        _refuse_loop(inner, schema, above, checked)
    above.remove(id(node))
    checked.add(id(node))


def _schemas_in_place(node: dict[str, Any], schema: dict[str, Any]) -> Iterator[Any]:
    """Yield the schemas that apply to the same value as this one."""
    if isinstance(node.get("$ref"), str):
        yield resolve_reference(node["$ref"], schema)
    for key in IN_PLACE:
        value = node.get(key)
        if key == "dependentSchemas" and isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, list):
            yield from value
        else:
            yield value


def _measure(node: Any, schema: dict[str, Any], sizes: dict[int, int], above: set[int]) -> bool:
    """Fill in the size of a schema with references written out; return whether it leads back to itself."""
    if id(node) in above:
        sizes[id(node)] = 1
        return True
    if id(node) in sizes or not isinstance(node, dict | list):
        return False
    above.add(id(node))
    children = list(node.values()) if isinstance(node, dict) else list(node)
    if isinstance(node, dict) and isinstance(node.get("$ref"), str):
        children.append(resolve_reference(node["$ref"], schema))
    loops = [_measure(child, schema, sizes, above) for child in children]
    sizes[id(node)] = 1 + sum(sizes.get(id(child), 0) for child in children)
    above.remove(id(node))
    if sizes[id(node)] > MAX_SIZE:
        raise ValueError(f"$ref: more than {MAX_SIZE:,} schemas with references written out")
    return any(loops)
