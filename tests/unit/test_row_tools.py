"""The tools that rows bring: read in every form, shown as they are, and their arguments checked by the whole schema."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tuneline.configs.catalogue import Catalogue, Tool, load_catalogue
from tuneline.configs.data import Data, Source
from tuneline.core.errors import BadData
from tuneline.core.paths import ROOT
from tuneline.stages.prepare.checks.problems import Problem
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.examination import Examination
from tuneline.stages.prepare.formats.reader import SourceRow, read_file
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.prepare.rendering.tool_preselector import Preselector
from tuneline.stages.prepare.rendering.tool_selection import add_nearest
from tuneline.stages.prepare.rows import Row
from tuneline.stages.prepare.validation import validate

PATH = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}


def row_of(tool: Any, arguments: Any, name: str = "") -> dict[str, Any]:
    function = tool.get("function", tool)
    call = {"function": {"name": name or function["name"], "arguments": arguments}}
    turns = [{"role": "user", "content": f"do {arguments}"}, {"role": "assistant", "tool_calls": [call]}]
    return {"messages": turns, "tools": [tool]}


def read(tmp_path: Path, *rows: dict[str, Any], catalogue: Catalogue | None = None) -> tuple[list[Row], list[Problem]]:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = list(read_file(file, Toolbox(catalogue)))
    rows_read = [result.row for result in results if isinstance(result, SourceRow)]
    return rows_read, [result for result in results if isinstance(result, Problem)]


def schema_of(parameters: Any) -> dict[str, Any]:
    return {"name": "t", "description": "d", "parameters": parameters}


ADDRESS = {"type": "object", "properties": {"street": {"type": "string"}}, "required": ["street"]}
NODE = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}},
}
SCHEMAS: dict[str, tuple[Any, Any, Any]] = {
    "$defs": (
        {"$defs": {"a": ADDRESS}, "properties": {"to": {"$ref": "#/$defs/a"}}},
        {"to": {"street": "x"}},
        {"to": {"street": 5}},
    ),
    "definitions": (
        {"definitions": {"a": ADDRESS}, "properties": {"to": {"$ref": "#/definitions/a"}}},
        {"to": {"street": "x"}},
        {"to": {}},
    ),
    "$anchor": (
        {"$defs": {"a": {"$anchor": "addr", **ADDRESS}}, "properties": {"to": {"$ref": "#addr"}}},
        {"to": {"street": "x"}},
        {"to": {"street": 5}},
    ),
    "recursive": (
        {"properties": {"node": {"$ref": "#/$defs/n"}}, "$defs": {"n": NODE}},
        {"node": {"v": 1, "next": {"v": 2, "next": None}}},
        {"node": {"v": "a"}},
    ),
    "anyOf": ({"properties": {"v": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}, {"v": None}, {"v": 5}),
    "oneOf on top": (
        {
            "oneOf": [
                {"properties": {"a": {"type": "string"}}, "required": ["a"]},
                {"properties": {"b": {"type": "integer"}}, "required": ["b"]},
            ]
        },
        {"a": "x"},
        {"a": "x", "c": 1},
    ),
    "allOf on top": (
        {"allOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {"type": "integer"}}}]},
        {"a": "x", "b": 1},
        {"a": "x", "c": 1},
    ),
    "a map": ({"type": "object", "additionalProperties": {"type": "integer"}}, {"n": 3}, {"n": "three"}),
    "no properties": ({"type": "object"}, {}, {"x": 1}),
    "no schema": (None, {}, {"x": 1}),
    "required alone": ({"type": "object", "required": ["x"]}, {"x": 1}, {}),
    "nullable": ({"properties": {"d": {"type": "string", "nullable": True}}}, {"d": None}, {"d": 5}),
    "nullable enum": (
        {"properties": {"d": {"type": "string", "enum": ["a"], "nullable": True}}},
        {"d": None},
        {"d": "b"},
    ),
    "nullable $ref": (
        {"$defs": {"a": ADDRESS}, "properties": {"d": {"$ref": "#/$defs/a", "nullable": True}}},
        {"d": None},
        {"d": 5},
    ),
    "types": ({"properties": {"d": {"type": ["string", "null"]}}, "required": ["d"]}, {"d": None}, {}),
    "draft 4": ({"properties": {"n": {"type": "number", "minimum": 0, "exclusiveMinimum": True}}}, {"n": 1}, {"n": 0}),
    "draft 7": (
        {"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"a": {"type": "string"}}},
        {"a": "x"},
        {"a": 1},
    ),
    "if": (
        {"properties": {"k": {}, "v": {}}, "if": {"properties": {"k": {"const": 1}}}, "then": {"required": ["v"]}},
        {"k": 2},
        {"k": 1},
    ),
    "pattern": ({"properties": {"p": {"type": "string", "pattern": "^(?!bad).+$"}}}, {"p": "good"}, {"p": "bad"}),
    "bfcl": (
        {"type": "dict", "properties": {"x": {"type": "float"}, "t": {"type": "any"}}, "required": ["x"]},
        {"x": 1.5, "t": []},
        {"x": "a"},
    ),
    "xlam": (
        {"type": {"type": "str", "description": "x"}, "n": {"type": "List[int], optional"}},
        {"type": "a", "n": [1]},
        {"n": ["a"]},
    ),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_whole_of_a_schema_is_checked(tmp_path: Path, name: str) -> None:
    schema, good, bad = SCHEMAS[name]
    rows, problems = read(tmp_path, row_of(schema_of(schema), good), row_of(schema_of(schema), bad))
    assert len(rows) == 1, problems
    errors = [problem for problem in problems if problem.severity == "error"]
    assert [(problem.kind, problem.line) for problem in errors] == [("bad_arguments", 2)]


@pytest.mark.parametrize(
    "tool",
    [
        {"name": "read_file", "description": "Read", "inputSchema": PATH},
        {"name": "read_file", "description": "Read", "input_schema": PATH},
        {"name": "read_file", "description": "Read", "parameters": PATH["properties"], "required": ["path"]},
        {"name": "read_file", "description": "Read", "parameters": {"path": {"type": "str"}}, "required": ["path"]},
        {"type": "function", "function": {"name": "read_file", "description": "Read", "parameters": PATH}},
        {
            "name": "read_file",
            "description": "Read",
            "parameters": PATH | {"properties": {"path": {"type": "string", "enum": None}, "city": None}},
        },
    ],
)
def test_a_tools_schema_is_read_wherever_it_stands(tmp_path: Path, tool: dict[str, Any]) -> None:
    rows, problems = read(
        tmp_path, row_of(tool, {"path": "/a"}), row_of(tool, {"path": "/a", "WRONG": True}), row_of(tool, {})
    )
    assert [problem.line for problem in problems if problem.kind == "bad_arguments"] == [2, 3] and len(rows) == 1
    shown = Toolbox(None).read_tools([tool], notes=_no_notes(tmp_path))["read_file"].tool.parameters
    assert shown["properties"] == {"path": {"type": "string"}} and shown["required"] == ["path"]


def _no_notes(tmp_path: Path) -> Any:
    from tuneline.stages.prepare.checks.notes import Notes

    return Notes(tmp_path)


@pytest.mark.parametrize(
    "reference", ["http://127.0.0.1:{port}/x.json", "file://{file}", "{file}", "http://127.0.0.1:{port}/x#/a"]
)
@pytest.mark.parametrize("key", ["$ref", "$dynamicRef", "$schema"])
def test_a_schema_never_leads_out_of_the_row(tmp_path: Path, reference: str, key: str) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"type": "string"}')
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        target = reference.format(port=server.getsockname()[1], file=other)
        schema = {"properties": {"a": {key: target}}} if key != "$schema" else {key: target, "properties": {"a": {}}}
        rows, problems = read(tmp_path, row_of(schema_of(schema), {"a": "x"}))
        assert not rows and [problem.kind for problem in problems] == ["bad_tool"]
        with pytest.raises(TimeoutError):
            server.accept()


NAMES = [
    "resolve-library-id",
    "_private",
    "get__double",
    "2fa_send",
    "mcp__context7__resolve-library-id",
    "trailing_",
    "a" * 64,
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_openai_takes_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    tool = {"name": name, "description": "d", "parameters": PATH}
    (row,), problems = read(tmp_path, row_of(tool, {"path": "x"}))
    assert not problems and row.messages[1].tool_calls
    assert row.messages[1].tool_calls[0].function.name == name
    toolbox = Toolbox(None)
    (known,) = toolbox.read_tools([tool], _no_notes(tmp_path)).values()
    assert toolbox.catalogue and toolbox.catalogue.openai([known.name])[0]["function"]["name"] == name


@pytest.mark.parametrize(
    ("name", "wire"), [("getNode.jsLogs", "getNode__jsLogs"), ("Market Trends API", "Market_Trends_API")]
)
def test_a_name_that_apis_refuse_is_mapped(tmp_path: Path, name: str, wire: str) -> None:
    (row,), problems = read(tmp_path, row_of({"name": name, "parameters": PATH}, {"path": "x"}))
    assert row.messages[1].tool_calls and row.messages[1].tool_calls[0].function.name == wire
    assert [problem.kind for problem in problems] == ([] if "." in name else ["tool_renamed"])


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    rows, problems = read(tmp_path, row_of({"name": "a" * 65, "parameters": PATH}, {"path": "x"}))
    assert not rows and "at most 64" in problems[0].text


def price(description: str, argument: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": "get_price", "description": description, "parameters": schema}}


def test_each_row_is_shown_its_own_tool_of_a_name(tmp_path: Path) -> None:
    tools = [price("Price of a stock", "id"), price("Price of a room", "id"), price("Price of a flight", "flight")]
    rows = [row_of(tools[0], {"id": "x"}), row_of(tools[1], {"id": "x"}), row_of(tools[2], {"flight": "x"})]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    catalogue = Catalogue(
        tools={"get_price": Tool(description="Price of a car", parameters={"properties": {"plate": {}}})}
    )
    renderer = Renderer(ROOT / "data/tiny", catalogue)
    examination = Examination(Data(sources=(Source(path=file),)), catalogue, renderer)
    accepted = [examined.row for examined in examination.rows()]
    assert [row.tools for row in accepted] == [[tool] for tool in tools]
    assert ["get_price(id)" in renderer.text(row)[0] for row in accepted] == [True, True, False]
    assert "get_price(flight)" in renderer.text(accepted[2])[0]
    assert examination.finish().examples["tool_differs"][0].text.startswith("tool 'get_price': its schema differs")


def test_a_rows_own_list_is_what_it_shows_and_none_is_none(tmp_path: Path) -> None:
    catalogue = load_catalogue(ROOT / "configs/tools/handlers.yaml")
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hello."}]
    file = tmp_path / "rows.jsonl"
    own = [{"name": "mine", "description": "d", "parameters": {}}]
    file.write_text(
        "".join(json.dumps({"messages": turns, **tools}) + "\n" for tools in ({"tools": []}, {"tools": own}, {}))
    )
    examination = Examination(Data(sources=(Source(path=file),), duplicates="keep"), catalogue, None)
    shown = [examined.row.tools for examined in examination.rows()]
    assert shown[:2] == [[], ["mine"]] and len(shown[2]) >= 3


@pytest.mark.parametrize("form", ["openai", "mcp", "mcp answer", "ours"])
def test_a_catalogue_may_be_a_list_of_openais_or_mcps(tmp_path: Path, form: str) -> None:
    mcp = {"tools": [{"name": "read-file", "description": "Read", "inputSchema": PATH}]}
    values: dict[str, Any] = {
        "openai": [{"type": "function", "function": {"name": "read-file", "description": "Read", "parameters": PATH}}],
        "mcp": mcp,
        "mcp answer": {"jsonrpc": "2.0", "id": 1, "result": mcp},
        "ours": {"tools": {"read-file": {"description": "Read", "parameters": PATH}}},
    }
    file = tmp_path / "tools.json"
    file.write_text(json.dumps(values[form]))
    (tool,) = load_catalogue(file).openai()
    assert tool["function"] == {"name": "read-file", "description": "Read", "parameters": PATH}


def test_an_http_api_is_no_catalogue_and_the_message_says_what_is(tmp_path: Path) -> None:
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps({"openapi": "3.0.0", "info": {}, "paths": {}}))
    with pytest.raises(BadData, match="OpenAPI.*tuneline tools import"):
        load_catalogue(file)


def test_nulls_as_arrow_writes_them_are_left_out_and_those_a_schema_takes_stay(tmp_path: Path) -> None:
    tool = {
        "name": "t",
        "parameters": {
            "type": "object",
            "properties": {"to": {"type": "string"}, "label": {"type": ["string", "null"]}},
            "required": ["to", "label"],
        },
    }
    (row,), problems = read(tmp_path, row_of(tool, {"to": "x", "label": None, "city": None}))
    assert row.messages[1].tool_calls and row.messages[1].tool_calls[0].function.arguments == {"to": "x", "label": None}
    assert [problem.kind for problem in problems] == ["nulls_left_out"]
    rows, problems = read(tmp_path, row_of(tool, {"to": None, "label": "y"}))
    assert not rows and [problem.kind for problem in problems] == ["bad_arguments"]


def test_a_tool_with_keys_that_nothing_reads_is_told(tmp_path: Path) -> None:
    (row,), problems = read(tmp_path, row_of({"name": "t", "parameters": {}, "returns": {"type": "string"}}, {}))
    assert row.tools == ["t"] and [problem.text for problem in problems] == ["a tool's 'returns' is not read"]


def test_of_many_own_tools_the_nearest_are_shown_and_no_others(tmp_path: Path) -> None:
    catalogue = load_catalogue(ROOT / "configs/tools/business.yaml")
    preselector = Preselector.from_catalogue(catalogue)
    own: list[Any] = [
        *list(catalogue.names)[:25],
        {"type": "function", "function": {"name": "mine", "description": ""}},
    ]
    turns = [{"role": "user", "content": "create a document"}, {"role": "assistant", "content": "ok"}]
    row = Row.model_validate({"messages": turns, "tools": own})
    shown = add_nearest(row, preselector, 5, catalogue.names).tools
    assert len(shown) == 5 and own[-1] in shown and all(tool in own for tool in shown)
    none = Row.model_validate({"messages": turns, "tools": []})
    assert add_nearest(none, preselector, 5, catalogue.names).tools == []
    assert len(add_nearest(Row.model_validate({"messages": turns}), preselector, 5, catalogue.names).tools) == 5


def test_a_cleaned_row_without_tools_of_its_own_still_has_none(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "".join(json.dumps({"messages": turns, "n": n, **keys}) + "\n" for n, keys in enumerate(({}, {"tools": []})))
    )
    validate([file], None, tmp_path / "out", fix=True)
    cleaned = [json.loads(line) for line in (tmp_path / "out/cleaned/1-rows.jsonl").read_text().splitlines()]
    assert ["tools" in row for row in cleaned] == [False]  # the second repeats it
