"""Made-up values are those that a schema allows, in training rows and in mocked answers."""

import random
import re
from datetime import date
from typing import Any

import jsonschema_rs
import pytest

from tuneline.configs.catalogue import Catalogue
from tuneline.configs.data import Data, Source
from tuneline.endpoints.assistant.mock_api import make_example
from tuneline.stages.prepare.synthesis.schema_values import FORMATS, is_constrained, make_values
from tuneline.stages.prepare.synthesis.synthetic_rows import make_synthesizer

SCHEMAS: dict[str, dict[str, Any]] = {
    **{name: {"type": "string", "format": name} for name in FORMATS},
    "code": {"type": "string", "pattern": r"^[A-Z]{2}-\d{4}(/[ab]|x+)?$"},
    "no digits": {"type": "string", "pattern": r"^[^0-9]{3,}$"},
    "unanchored": {"type": "string", "pattern": r"(red|green) \w+"},
    "whole": {"type": "integer", "minimum": 3, "maximum": 9},
    "above": {"type": "integer", "exclusiveMinimum": 10},
    "below": {"type": "number", "exclusiveMaximum": 0},
    "steps": {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.05},
    "short": {"type": "string", "minLength": 2, "maxLength": 4},
    "long": {"type": "string", "minLength": 50, "maxLength": 60},
    "constant": {"const": "x"},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_values_are_allowed_by_their_schema(name: str) -> None:
    schema = SCHEMAS[name]
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    values = make_values(schema, random.Random(1), 20)
    assert is_constrained(schema) and values and all(validator.is_valid(value) for value in values)
    assert values == make_values(schema, random.Random(1), 20)
    assert validator.is_valid(make_example(schema, schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "(?=a)b"},
        {"type": "string", "pattern": "("},
        {"type": "integer", "minimum": 5, "maximum": 4},
    ],
    ids=["look-ahead", "broken", "empty"],
)
def test_what_cannot_be_made_is_none(schema: dict[str, Any]) -> None:
    assert make_values(schema, random.Random(1), 5) == []


@pytest.mark.parametrize("schema", [{"type": "string"}, {"type": "string", "maxLength": 200}, {"type": "boolean"}])
def test_a_type_alone_is_no_constraint(schema: dict[str, Any]) -> None:
    assert not is_constrained(schema)


def test_rows_of_a_catalogue_have_values_that_the_schema_allows() -> None:
    properties = {
        "email": {"type": "string", "format": "email"},
        "date": {"type": "string", "format": "date"},
        "room": {"type": "string", "pattern": r"^[A-C]\d\d$"},
        "guests": {"type": "integer", "minimum": 1, "maximum": 8},
        "quiet": {"type": "boolean"},
    }
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    tool = {"description": "Book a room.", "parameters": parameters}
    other = {"description": "Cancel a booking.", "parameters": parameters}
    catalogue = Catalogue.model_validate({"tools": {"room.book": tool, "room.cancel": other}})
    source = Source(per_tool=20)
    rows = list(make_synthesizer(Data(sources=(source,)), catalogue)(source, 0))
    calls = [call.function.arguments for row in rows for message in row.messages for call in message.tool_calls or ()]
    validator = jsonschema_rs.validator_for(parameters | {"required": []}, validate_formats=True)
    assert len(calls) > 20 and all(validator.is_valid(arguments) for arguments in calls)
    dates = [date.fromisoformat(arguments["date"]) for arguments in calls if "date" in arguments]
    assert len(set(dates)) > 5 and any(re.fullmatch(r"[A-C]\d\d", a["room"]) for a in calls if "room" in a)
