"""Lists, objects and references in made-up calls are what the tool's schema allows, and are in the text."""

import random
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tuneline.configs.catalogue import Catalogue
from tuneline.configs.data import Data, Source
from tuneline.core.errors import BadData
from tuneline.stages.prepare.synthesis.structured_values import describe_value, make_arguments, plain_schema
from tuneline.stages.prepare.synthesis.synthetic_rows import make_synthesizer

DEFINITIONS = {
    "Person": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "friends": {"type": "array", "items": {"$ref": "#/$defs/Person"}}},
        "required": ["name"],
        "additionalProperties": False,
    },
    "Size": {"enum": ["small", "large"]},
}
LEAVES = some.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "format": "date"},
        {"type": "integer", "minimum": 2, "maximum": 9},
        {"type": "number"},
        {"type": "boolean"},
        {"enum": ["a", 3, True]},
        {"const": 5},
        {"$ref": "#/$defs/Person"},
        {"$ref": "#/$defs/Size"},
        {"type": ["integer", "null"]},
    ]
)


def _nest(inner: some.SearchStrategy[dict[str, Any]]) -> some.SearchStrategy[dict[str, Any]]:
    names = some.lists(some.sampled_from(["name", "size", "date_of_birth"]), unique=True, max_size=2)
    properties = some.dictionaries(some.sampled_from(["name", "size", "date_of_birth", "tags"]), inner, max_size=3)
    return some.one_of(
        some.builds(lambda items, low: {"type": "array", "items": items, "minItems": low}, inner, some.integers(0, 3)),
        some.builds(lambda one: {"type": "array", "prefixItems": [one, {"type": "string"}], "items": False}, inner),
        some.builds(
            lambda parts, need: {"type": "object", "properties": parts, "required": [n for n in need if n in parts]},
            properties,
            names,
        ),
        some.builds(lambda part: {"type": "object", "additionalProperties": part}, inner),
        some.builds(lambda one, other: {"anyOf": [one, other, {"type": "null"}]}, inner, inner),
        some.builds(lambda one: {"allOf": [one, {"description": "the same"}]}, inner),
    )


@settings(max_examples=150, deadline=None)
@given(some.recursive(LEAVES, _nest, max_leaves=5), some.integers(0, 99))
def test_values_are_allowed_by_the_schema_and_told_by_their_text(schema: dict[str, Any], seed: int) -> None:
    parameters = {"type": "object", "properties": {"it": schema}, "$defs": DEFINITIONS}
    validator = jsonschema.Draft202012Validator(parameters)
    made = make_arguments(parameters, "it", random.Random(seed), 5)
    assert made == make_arguments(parameters, "it", random.Random(seed), 5)
    for text, value in made.items():
        validator.validate({"it": value})
        assert text == describe_value(value) != ""


@pytest.mark.parametrize("kind", ["array", "object"])
@settings(max_examples=40, deadline=None)
@given(leaf=LEAVES)
def test_a_list_or_an_object_of_anything_that_can_be_made_is_made(kind: str, leaf: dict[str, Any]) -> None:
    schema = {"array": {"type": "array", "items": leaf, "minItems": 1}, "object": {"properties": {"it": leaf}}}[kind]
    schema |= {"required": ["it"]} if kind == "object" else {}
    assert make_arguments({"properties": {"it": schema}, "$defs": DEFINITIONS}, "it", random.Random(1), 1)


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "integer"),
        ({"type": ["null", "string"]}, "string"),
        ({"$ref": "#/$defs/Size"}, "string"),
        ({"description": "anything"}, "string"),
        ({"type": "array"}, None),
        ({"enum": [1, 2]}, None),
        ({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}, None),
        ({"$ref": "#/$defs/Endless"}, None),
    ],
)
def test_what_is_plain_after_all_is_made_as_other_plain_values(schema: dict[str, Any], kind: str | None) -> None:
    definitions = DEFINITIONS | {"Endless": {"$ref": "#/$defs/Endless"}}
    plain = plain_schema(schema, {"properties": {"it": schema}, "$defs": definitions})
    assert (plain and plain["type"]) == kind


PROPERTIES: dict[str, Any] = {
    "cities": {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True},
    "guest": {"$ref": "#/$defs/Person"},
    "nights": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
    "room": {
        "type": "object",
        "properties": {"beds": {"type": "integer", "minimum": 1, "maximum": 4}, "quiet": {"type": "boolean"}},
        "required": ["beds"],
    },
    "size": {"$ref": "#/$defs/Size"},
}


def make_calls(properties: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The last user's text before each call of made-up rows, with the arguments."""
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties)[:2],
        "$defs": DEFINITIONS,
        "additionalProperties": False,
    }
    tools = {name: {"description": f"{name} a trip.", "parameters": parameters} for name in ("Book", "Cancel")}
    source = Source(per_tool=20)
    rows = make_synthesizer(Data(sources=(source,)), Catalogue.model_validate({"tools": tools}))(source, 0)
    return [
        (" ".join(message.content or "" for message in row.messages if message.role == "user"), call.function.arguments)
        for row in rows
        for message in row.messages
        for call in message.tool_calls or ()
    ]


def test_rows_of_a_catalogue_have_lists_and_objects_that_are_valid_and_in_the_request() -> None:
    calls = make_calls(PROPERTIES)
    validator = jsonschema.Draft202012Validator({"type": "object", "properties": PROPERTIES, "$defs": DEFINITIONS})
    assert len(calls) > 20
    for text, arguments in calls:
        validator.validate(arguments)
        assert all(describe_value(value).lower() in text.lower() for value in arguments.values()), (text, arguments)
    assert {type(arguments["cities"]) for _, arguments in calls} == {list}
    assert {type(arguments["guest"]) for _, arguments in calls} == {dict}
    assert {type(arguments["nights"]) for _, arguments in calls if "nights" in arguments} == {int}


def test_a_list_of_which_nothing_can_be_made_is_named() -> None:
    impossible = {"stops": {"type": "array", "items": {"type": "string", "pattern": "(?=a)b"}, "minItems": 1}}
    with pytest.raises(BadData, match=r"tools.Book.parameters.properties.stops: no value .* add `examples"):
        make_calls(impossible)
