"""`tuneline tools import`: what an API, a server or a module has, as a catalogue that trains and serves."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import tuneline
from tuneline.configs.catalogue import Catalogue, load_catalogue
from tuneline.core.errors import BadData, BadRequest, NotFound, StageFailed
from tuneline.core.paths import ROOT
from tuneline.stages.prepare.checks.tool_schemas import build_validator
from tuneline.stages.tool_import import import_tools, load_api, write_catalogue
from tuneline.stages.tool_import.catalogue_check import check_catalogue
from tuneline.stages.tool_import.imported import to_tool_name

PETSTORE = ROOT / "examples" / "petstore.yaml"


def pets() -> Catalogue:
    return import_tools(str(PETSTORE)).catalogue


def test_operations_are_tools_whose_schemas_stand_alone() -> None:
    catalogue = pets()
    assert catalogue.names == ("listPets", "pets.create", "getPet", "delete.pets.petId")
    create = catalogue.tools["pets.create"].parameters
    assert create["required"] == ["name"] and "id" not in create["properties"]  # readOnly: only answers have it
    assert create["properties"]["born"]["type"] == ["string", "null"]
    assert create["properties"]["weight"] == {"type": "number", "exclusiveMinimum": 0}
    assert create["properties"]["parent"] == {"$ref": "#/$defs/Pet"}  # it contains itself
    validator, _ = build_validator(create)
    good = {"name": "Rex", "born": None, "parent": {"name": "Mia", "parent": {"name": "Old"}}, "owner": {"name": "Ann"}}
    assert validator.is_valid(good)
    for bad in ({"name": "Rex", "parent": {}}, {"name": "R" * 41}, {"name": "Rex", "owner": {"x": 1}}, {}):
        assert not validator.is_valid(bad)


def test_keys_are_noted_and_are_no_arguments() -> None:
    imported = import_tools(str(PETSTORE))
    assert "X-Api-Key" not in imported.catalogue.tools["listPets"].properties
    notes = "\n".join(imported.notes)
    assert (
        "export PET_STORE_KEY=" in notes and "image/png" in notes and "'pets/create' is called 'pets.create'" in notes
    )


def test_what_is_written_is_read_again_and_never_overwritten(tmp_path: Path) -> None:
    written = tmp_path / "catalogue.yaml"
    write_catalogue(pets(), written)
    assert load_catalogue(written) == pets()
    with pytest.raises(BadRequest, match="is there already"):
        write_catalogue(pets(), written)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"swagger": "2.0", "info": {"title": "t"}}, "version 2.0; only OpenAPI 3"),
        ({"openapi": "3.0.0", "info": {"title": "t"}}, "info.version"),
        ({"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {}}, "no operation"),
        (
            {
                "openapi": "3.0.3",
                "info": {"title": "t", "version": "1"},
                "paths": {"/a": {"get": {"parameters": [{"$ref": "#/components/parameters/none"}], "responses": {}}}},
            },
            r"GET /a: left out: \$ref: '#/components/parameters/none': points to nothing in this schema",
        ),
    ],
)
def test_a_document_that_cannot_be_used_says_why(tmp_path: Path, document: dict[str, Any], message: str) -> None:
    file = tmp_path / "api.json"
    file.write_text(json.dumps(document))
    with pytest.raises(BadData, match=message):
        import_tools(str(file))


def test_arguments_of_one_name_in_two_places_stay_apart(tmp_path: Path) -> None:
    item = {"name": "id", "schema": {"type": "integer"}}
    operation = {
        "parameters": [{**item, "in": "path", "required": True}, {**item, "in": "query"}],
        "requestBody": {"content": {"application/json": {"schema": {"type": "object", "properties": {"id": {}}}}}},
        "responses": {"200": {"description": "ok"}},
    }
    document = {"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {"/a/{id}": {"put": operation}}}
    file = tmp_path / "api.json"
    file.write_text(json.dumps(document))
    api = load_api(str(file))
    assert api
    [operation_read] = api.operations
    assert list(operation_read.parameters["properties"]) == ["id", "query_id", "body"]
    assert operation_read.places["query_id"].name == "id" and operation_read.has_whole_body


MODULE = '''
from typing import Literal
from pydantic import BaseModel

class Line(BaseModel):
    item: str
    count: int = 1

def order(lines: list[Line], to: str, speed: Literal["slow", "fast"] = "slow", note: str | None = None) -> str:
    """Order things.

    Args:
        lines: What to order.
        to: Who gets it.
    """
    return "ordered"

async def stop() -> None:
    """Stop the line."""

def _hidden(): ...
'''


def test_functions_are_tools_by_their_hints_and_docstrings(tmp_path: Path) -> None:
    (tmp_path / "shop_functions.py").write_text(MODULE)
    catalogue = import_tools(str(tmp_path / "shop_functions.py")).catalogue
    assert catalogue.names == ("order", "stop")
    order = catalogue.tools["order"]
    assert order.description == "Order things." and order.required == ("lines", "to")
    assert order.properties["to"] == {"type": "string", "description": "Who gets it."}
    assert order.properties["note"]["default"] is None
    validator, _ = build_validator(order.parameters)
    assert validator.is_valid({"lines": [{"item": "nut"}], "to": "Ann", "note": None})
    assert not validator.is_valid({"lines": [{"count": 1}], "to": "Ann"})


@pytest.mark.parametrize(
    ("code", "message"), [("def f(*a): ...", "has no name"), ("1/0", "Zero"), ("x = 1", "no public")]
)
def test_a_module_that_has_no_tools_says_why(tmp_path: Path, code: str, message: str) -> None:
    file = tmp_path / f"broken_{abs(hash(code))}.py"
    file.write_text(code)
    with pytest.raises(BadData, match=message):
        import_tools(str(file))
    with pytest.raises(NotFound, match="no such file, address or Python module"):
        import_tools("module_that_is_nowhere")


SERVER = """
from mcp.server.mcpserver import MCPServer
server = MCPServer("calculator")
@server.tool(name="maths.add")
def add(a: int, b: int = 2) -> int:
    "Add two numbers."
    return a + b
server.run()
"""


def test_a_server_of_mcp_is_asked_by_the_official_client(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SERVER)
    catalogue = import_tools(f"mcp:{sys.executable} {tmp_path / 'server.py'}").catalogue
    assert catalogue.tools["maths.add"].description == "Add two numbers."
    assert catalogue.tools["maths.add"].required == ("a",)
    with pytest.raises(StageFailed, match="no MCP server answers"):
        import_tools(f"mcp:{sys.executable} {tmp_path / 'none.py'}")


FUNCTION = {
    "name": "f",
    "description": "d",
    "parameters": {
        "type": "object",
        "properties": {"q": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}},
    },
}


@pytest.mark.parametrize(
    "written",
    [
        [{"type": "function", "function": FUNCTION}],
        [FUNCTION],
        {"tools": [FUNCTION]},
        {"functions": [FUNCTION]},
        {"result": {"tools": [{"name": "f", "description": "d", "inputSchema": FUNCTION["parameters"]}]}},
    ],
)
def test_lists_of_tools_are_read_with_their_schemas_unchanged(tmp_path: Path, written: Any) -> None:
    file = tmp_path / "tools.json"
    file.write_text(json.dumps(written))
    assert import_tools(str(file)).catalogue.tools["f"].parameters == FUNCTION["parameters"]


@settings(max_examples=200)
@given(st.lists(st.text(max_size=90), max_size=5))
def test_any_names_become_names_that_every_api_takes(written: list[str]) -> None:
    names: dict[str, Any] = {}
    for text in written:
        names[to_tool_name(text, names)] = {"description": "d", "parameters": {"type": "object"}}
    assert len(Catalogue.model_validate({"tools": names}).names) == len(written)


def test_check_names_what_a_model_trips_over(tmp_path: Path) -> None:
    text = {"type": "string", "description": "t", "maxLength": 9}
    tools = {
        "a.send": {"description": "Send a message to a person.", "parameters": {"properties": {"to": text}}},
        "b.send": {"description": "Send a message to a person!", "parameters": {"properties": {"to": text}}},
        "c-d": {"description": "", "parameters": {"properties": {"x": {"type": "string"}}}},
        "e": {"description": "Open the door.", "parameters": {"properties": {"x": {"$ref": "#/none"}}}},
    }
    findings = check_catalogue(Catalogue.model_validate({"tools": tools}), prompt_tokens=50)
    messages = "\n".join(f"{finding.level}: {finding.message}" for finding in findings)
    assert findings[0].level == "error" and "tools.e.parameters: $ref" in findings[0].message
    for part in (
        "a.send and tools.b.send",
        "c-d: no description",
        "of x",
        "identifiers",
        "1 strings",
        "a prompt has 50",
    ):
        assert part in messages
    file = tmp_path / "catalogue.json"
    file.write_text(json.dumps({"tools": tools}))
    assert "4 tools, 1 errors" in tuneline(tmp_path, "tools", "check", str(file), code=2).stdout


def test_the_command_writes_a_catalogue_and_nothing_on_bad_input(tmp_path: Path) -> None:
    to = tmp_path / "catalogue.yaml"
    done = tuneline(tmp_path, "tools", "import", str(PETSTORE), "--to", str(to))
    assert "4 tools" in done.stdout and load_catalogue(to).names
    again = tuneline(tmp_path, "tools", "import", str(PETSTORE), "--to", str(to), code=2)
    assert "is there already" in again.stderr
    none = tuneline(tmp_path, "tools", "import", "none.yaml", "--to", str(tmp_path / "other.yaml"), code=2)
    assert "none.yaml: no such file" in none.stderr and not (tmp_path / "other.yaml").exists()
