"""Any JSON Schema of a tool's arguments, with arguments that are valid under it."""

from typing import Any

from hypothesis import strategies as st

Pair = tuple[dict[str, Any], Any]
"""(schema, a valid value)."""
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True)
WORDS = st.text("abcdefgh éß東 ", min_size=1, max_size=6).map(str.strip).filter(bool)


def _with(schema: dict[str, Any], values: st.SearchStrategy[Any]) -> st.SearchStrategy[Pair]:
    return values.map(lambda value: (schema, value))


LEAVES = st.one_of(
    _with({"type": "string", "maxLength": 6, "description": "A word."}, WORDS),
    _with({"type": "integer", "minimum": 0, "maximum": 99}, st.integers(0, 99)),
    _with({"type": "number"}, st.integers(-999, 999).map(lambda n: n / 4)),
    _with({"type": "boolean", "default": False}, st.booleans()),
    _with({"type": ["string", "null"], "maxLength": 6, "default": None}, WORDS | st.none()),
    st.lists(WORDS, min_size=1, max_size=3, unique=True).flatmap(
        lambda words: _with({"type": "string", "enum": words}, st.sampled_from(words))
    ),
    _with({"const": "only"}, st.just("only")),
)


def _array(inner: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    def of(pair: Pair) -> st.SearchStrategy[Pair]:
        schema = {"type": "array", "items": pair[0], "minItems": 1, "maxItems": 2}
        return st.integers(1, 2).map(lambda count: (schema, [pair[1]] * count))

    return inner.flatmap(of)


def _choice(inner: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    return st.tuples(inner, inner).map(lambda pairs: ({"anyOf": [pairs[0][0], pairs[1][0]]}, pairs[0][1]))


def _object(inner: st.SearchStrategy[Pair], max_size: int = 2) -> st.SearchStrategy[Pair]:
    def of(properties: dict[str, Pair]) -> Pair:
        schema = {
            "type": "object",
            "properties": {name: pair[0] for name, pair in properties.items()},
            "required": list(properties),
            "additionalProperties": False,
        }
        return schema, {name: pair[1] for name, pair in properties.items()}

    return st.dictionaries(NAMES, inner, min_size=1, max_size=max_size).map(of)


ARGUMENTS = _object(
    st.recursive(LEAVES, lambda inner: _array(inner) | _choice(inner) | _object(inner), max_leaves=4), max_size=3
)
"""Schemas of whole tools."""
