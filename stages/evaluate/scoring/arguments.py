"""Whether two sets of arguments say the same to a tool: compared by their types, as the tool's schema gives them."""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]
ALIKE = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "\u00a0": " "})
"""Signs that a keyboard or an editor puts for one another."""


def same_arguments(wanted: Mapping[str, Any], got: Any, schema: Schema) -> bool:
    """Numbers by value, text without its spaces around and its kind of quotes, lists in order unless they are sets.

    What is left out is its schema's default, and null where it has none. A number written as text is no number: the
    tool would refuse it.
    """
    if not isinstance(got, Mapping):
        return False
    properties = schema.get("properties") or {}
    return all(
        _same(_given(wanted, name, properties), _given(got, name, properties), properties.get(name) or {})
        for name in wanted.keys() | got.keys()
    )


def same_calls(wanted: Sequence[Mapping[str, Any]], got: Sequence[Mapping[str, Any]], schemas: Any) -> bool:
    """The same calls in any order; `arguments` None in `wanted` is anything. `schemas` gives a tool's schema."""
    left = list(got)
    for call in sorted(wanted, key=lambda one: one["arguments"] is None):  # those that take anything come last
        fits = (i for i, one in enumerate(left) if _same_call(call, one, schemas))
        place = next(fits, None)
        if place is None:
            return False
        left.pop(place)
    return not left


def _same_call(wanted: Mapping[str, Any], got: Mapping[str, Any], schemas: Any) -> bool:
    if wanted["name"] != got["name"]:
        return False
    return wanted["arguments"] is None or same_arguments(wanted["arguments"], got["arguments"], schemas(got["name"]))


def _given(arguments: Mapping[str, Any], name: str, properties: Mapping[str, Any]) -> Any:
    return arguments[name] if name in arguments else (properties.get(name) or {}).get("default")


def _same(a: Any, b: Any, schema: Schema) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):  # to Python, True is 1
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b or math.isclose(a, b, rel_tol=1e-9)
    if isinstance(a, str) and isinstance(b, str):
        return _plain(a) == _plain(b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return same_arguments(a, b, schema)
    if isinstance(a, list) and isinstance(b, list):
        return _same_list(a, b, schema)
    return a is None and b is None


def _same_list(a: list[Any], b: list[Any], schema: Schema) -> bool:
    inner = schema.get("items") or {}
    if len(a) != len(b):
        return False
    if not schema.get("uniqueItems"):
        return all(_same(x, y, inner) for x, y in zip(a, b, strict=True))
    left = list(b)
    for one in a:
        place = next((i for i, other in enumerate(left) if _same(one, other, inner)), None)
        if place is None:
            return False
        left.pop(place)
    return True


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).translate(ALIKE).split())
