"""Arguments that are lists, objects, references or one of several types: values that a tool's schema allows.

Each is made from the schema's own keywords and checked by a validator with the whole schema of the tool, whose `$defs`
it may refer to. People write them as text: a list by its items, an object by the names and values of its properties.
"""

import random
from collections.abc import Iterator, Mapping
from typing import Any

from tuneline.stages.prepare.synthesis.schema_values import WORDS, make_plain_value

Schema = Mapping[str, Any]
TRIES = 400
"""Values made for those that are asked for."""
MAX_DEPTH = 5
"""Of objects in objects; below it, only what is required is made."""
MAX_REFERENCES = 16
"""One after another, before a schema counts as endless."""
MAX_ITEMS = 3
"""More than the fewest that a list has."""
PLAIN_TYPES = ("string", "integer", "number", "boolean")
SHARED_KEYS = ("properties", "$defs", "definitions")
"""Keys of a tool's schema that a schema of one argument may refer to."""


def plain_schema(schema: Schema, parameters: Schema) -> dict[str, Any] | None:
    """Return the schema of a text, a number or a truth value that an argument may be; None if it has to be made here.

    `parameters` is the tool's whole schema. What may be left empty (`null`) is taken as what it is otherwise.
    """
    variants = list(_list_variants(schema, parameters))
    if not variants or any(_type_of(variant) not in PLAIN_TYPES for variant in variants):
        return None
    plain = variants[0]
    values = [plain.get("const"), *(plain.get("enum") or ()), *(plain.get("examples") or ())]
    if _type_of(plain) == "string" and not all(isinstance(value, str | None) for value in values):
        return None
    return {**plain, "type": _type_of(plain)}


def make_arguments(parameters: Schema, name: str, rng: random.Random, count: int) -> dict[str, Any]:
    """Return up to `count` values of an argument by the texts that people write for them; none if none was found."""
    import jsonschema_rs

    shared = {key: parameters[key] for key in SHARED_KEYS if key in parameters}
    try:
        validator = jsonschema_rs.validator_for({"type": "object", **shared}, validate_formats=True, offline=True)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError):
        return {}
    values: dict[str, Any] = {}
    for _ in range(TRIES):
        value = _make(parameters["properties"][name], parameters, rng, 0)
        text = describe_value(value)
        if text and text not in values and value is not None and validator.is_valid({name: value}):
            values[text] = value
        if len(values) == count:
            break
    return values


def describe_value(value: Any) -> str:
    """Return a value as people write it: a list by its items, an object by the names and values of its properties."""
    if isinstance(value, list):
        return ", ".join(map(describe_value, value))
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {describe_value(part)}".strip() for name, part in value.items())
    if value is None or isinstance(value, bool):
        return {None: "", True: "true", False: "false"}[value]
    return str(value)


def _list_variants(schema: Schema, root: Schema, references: int = 0) -> Iterator[dict[str, Any]]:
    """Yield what a schema may be, without references and without null: one schema for each type."""
    if references > MAX_REFERENCES:
        return
    if isinstance(reference := schema.get("$ref"), str):
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        if isinstance(target := _follow(reference, root), Mapping):
            yield from _list_variants(_merge(target, beside), root, references + 1)
        return
    if parts := [part for part in schema.get("allOf") or () if isinstance(part, Mapping)]:
        merged: Mapping[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
        for part in parts:
            merged = _merge(merged, next(_list_variants(part, root, references + 1), part))
        yield from _list_variants(merged, root, references + 1)
        return
    for key in ("anyOf", "oneOf"):
        if options := [option for option in schema.get(key) or () if isinstance(option, Mapping)]:
            beside = {name: value for name, value in schema.items() if name != key}
            for option in options:
                yield from _list_variants(_merge(beside, option), root, references + 1)
            return
    types = schema.get("type")
    for kind in types if isinstance(types, list) else [types]:
        if kind != "null" and _type_of(schema) != "null":
            yield {**schema, "type": kind} if kind else dict(schema)


def _follow(reference: str, root: Schema) -> Any:
    """Return what a reference into the tool's own schema means; None for any other."""
    found: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found if reference.startswith("#") else None


def _merge(first: Schema, second: Schema) -> dict[str, Any]:
    """Return a schema that says what both say; of two that say the same key, the second one's."""
    merged = {**first, **second}
    if "properties" in first and "properties" in second:
        merged["properties"] = {**first["properties"], **second["properties"]}
    if "required" in first and "required" in second:
        merged["required"] = list(dict.fromkeys([*first["required"], *second["required"]]))
    return merged


def _type_of(schema: Schema) -> str:
    """Return the type of a schema without alternatives, from its keywords where it is not stated."""
    if isinstance(kind := schema.get("type"), str):
        return kind
    if "const" in schema and schema["const"] is None:
        return "null"
    return "object" if "properties" in schema else "array" if {"items", "prefixItems"} & schema.keys() else "string"


def _make(schema: Any, root: Schema, rng: random.Random, depth: int) -> Any:
    """Return a value, which a validator has yet to accept; None if there is none."""
    if not isinstance(schema, Mapping):
        return rng.choice(WORDS) if schema is True else None
    if not (variants := list(_list_variants(schema, root))):
        return None
    variant = rng.choice(variants)
    if "const" in variant:
        return variant["const"]
    for key in ("enum", "examples"):
        if choices := [choice for choice in variant.get(key) or () if choice is not None]:
            return rng.choice(choices)
    match _type_of(variant):
        case "object":
            return _make_object(variant, root, rng, depth)
        case "array":
            return _make_array(variant, root, rng, depth)
        case "boolean":
            return rng.random() < 0.5
    return make_plain_value(variant, rng)


def _make_object(schema: Schema, root: Schema, rng: random.Random, depth: int) -> dict[str, Any]:
    """Return an object with what is required and, above `MAX_DEPTH`, half of the other properties."""
    properties, required = schema.get("properties") or {}, schema.get("required") or ()
    fewest = int(schema.get("minProperties") or 0)
    names = [name for name in properties if name in required or (depth < MAX_DEPTH and rng.random() < 0.5)]
    made = {name: _make(properties[name], root, rng, depth + 1) for name in names}
    made = {name: value for name, value in made.items() if value is not None or name in required}
    others = schema.get("additionalProperties")
    if not properties and others is not False:
        fewest = max(fewest, rng.randint(1, 2))
    while len(made) < fewest and len(made) < len(WORDS) + len(properties):
        more = [name for name in properties if name not in made] or [w for w in WORDS if w not in made]
        name = rng.choice(more)
        part = properties.get(name, others if isinstance(others, Mapping) else {"type": "string"})
        made[name] = _make(part, root, rng, depth + 1)
    return made


def _make_array(schema: Schema, root: Schema, rng: random.Random, depth: int) -> list[Any]:
    """Return a list of as many items as a schema allows, not many more than it requires."""
    first = list(schema.get("prefixItems") or ())
    items = schema.get("items", {"type": "string"})
    if isinstance(items, list):  # before JSON Schema 2020-12, a list of schemas was what prefixItems is now
        first, items = items, schema.get("additionalItems", {"type": "string"})
    fewest = max(int(schema.get("minItems") or 0), len(first))
    most = int(schema.get("maxItems", max(fewest, 1) + MAX_ITEMS))
    few = max(fewest, 1)
    wanted = fewest if depth >= MAX_DEPTH else rng.randint(min(few, most), min(most, few + MAX_ITEMS))
    made = [_make(part, root, rng, depth + 1) for part in first]
    if items is not False:
        for _ in range(4 * wanted):
            if len(made) >= wanted:
                break
            item = _make(items, root, rng, depth + 1)
            if item is not None and (item not in made or not schema.get("uniqueItems")):
                made.append(item)
    return made[:most]
