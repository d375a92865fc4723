"""Whether two sets of arguments mean the same to a tool, compared by the types in the tool's schema."""

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]
EQUIVALENT_CHARACTERS = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "\u00a0": " "})
"""Characters that a keyboard or an editor replaces with another."""


def same_arguments(expected: Mapping[str, Any], actual: Any, schema: Schema) -> bool:
    """Return whether two sets of arguments are equal.

    Numbers are compared by value, text without surrounding spaces and kind of quotes, lists in order unless they are
    sets. An argument left out is its schema's default, or null. A number written as text is not a number: the tool
    would refuse it.
    """
    if not isinstance(actual, Mapping):
        return False
    properties = schema.get("properties") or {}
    return all(
        _same(_value(expected, name, properties), _value(actual, name, properties), properties.get(name) or {})
        for name in expected.keys() | actual.keys()
    )


def same_calls(
    expected: Sequence[Mapping[str, Any]], actual: Sequence[Mapping[str, Any]], schemas: Callable[[str], Schema]
) -> bool:
    """Return whether two lists have the same calls in any order; expected `arguments` of None match any.

    `schemas` returns a tool's schema.
    """
    unmatched = list(actual)
    for call in sorted(expected, key=lambda call: call["arguments"] is None):  # those that match anything come last
        matches = (i for i, other in enumerate(unmatched) if _same_call(call, other, schemas))
        place = next(matches, None)
        if place is None:
            return False
        unmatched.pop(place)
    return not unmatched


def _same_call(expected: Mapping[str, Any], actual: Mapping[str, Any], schemas: Callable[[str], Schema]) -> bool:
    if expected["name"] != actual["name"]:
        return False
    arguments = expected["arguments"]
    return arguments is None or same_arguments(arguments, actual["arguments"], schemas(actual["name"]))


def _value(arguments: Mapping[str, Any], name: str, properties: Mapping[str, Any]) -> Any:
    return arguments[name] if name in arguments else (properties.get(name) or {}).get("default")


def _same(a: Any, b: Any, schema: Schema) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):  # to Python, True is 1
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b or math.isclose(a, b, rel_tol=1e-9)
    if isinstance(a, str) and isinstance(b, str):
        return _normalized(a) == _normalized(b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return same_arguments(a, b, schema)
    if isinstance(a, list) and isinstance(b, list):
        return _same_list(a, b, schema)
    return a is None and b is None


def _same_list(a: list[Any], b: list[Any], schema: Schema) -> bool:
    item_schema = schema.get("items") or {}
    if len(a) != len(b):
        return False
    if not schema.get("uniqueItems"):
        return all(_same(x, y, item_schema) for x, y in zip(a, b, strict=True))
    unmatched = list(b)
    for value in a:
        place = next((i for i, other in enumerate(unmatched) if _same(value, other, item_schema)), None)
        if place is None:
            return False
        unmatched.pop(place)
    return True


def _normalized(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).translate(EQUIVALENT_CHARACTERS).split())
