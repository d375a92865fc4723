"""JSON Schema from a catalogue to a training row, to a call that a grammar constrains, to arguments that are valid."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.line.test_llama_server import TINY, base, post  # noqa: F401  # a fixture
from tests.schemas import ARGUMENTS, Pair
from tuneline.configs.catalogue import load_catalogue
from tuneline.core.user_files import parse_json
from tuneline.engines.llama_cpp.llama_server import start_llama_server
from tuneline.engines.tool_calls import parse_tool_calls
from tuneline.stages.prepare.checks.problems import Problem
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.formats.reader import SourceRow, read_file
from tuneline.stages.prepare.rendering.renderer import Renderer

SAMPLES = 12
"""Of schemas whose calls a model writes; about half a second each on one core."""


def tool(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "shop__order", "description": "Order.", "parameters": schema}}


def chat(arguments: Any) -> list[dict[str, Any]]:
    function = {"name": "shop__order", "arguments": json.dumps(arguments, ensure_ascii=False)}
    return [
        {"role": "user", "content": "order"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]},
    ]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(TINY, None)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(pair=ARGUMENTS)
def test_a_schema_and_its_arguments_reach_the_training_text_unchanged(renderer: Renderer, pair: Pair) -> None:
    schema, arguments = pair
    with tempfile.TemporaryDirectory() as folder:
        catalogue_file, rows_file = Path(folder) / "tools.json", Path(folder) / "rows.jsonl"
        catalogue_file.write_text(json.dumps([tool(schema)]))
        rows_file.write_text(json.dumps({"messages": chat(arguments), "tools": [tool(schema)]}) + "\n")
        catalogue = load_catalogue(catalogue_file)
        toolbox = Toolbox(catalogue)
        results = list(read_file(rows_file, toolbox))
    assert catalogue.openai() == [tool(schema)]
    assert [result for result in results if isinstance(result, Problem)] == []
    [row] = [result.row for result in results if isinstance(result, SourceRow)]
    assert toolbox.check_arguments("shop.order", arguments) is None
    renderer.catalogue = catalogue
    text = renderer.text(row)[0]
    answer = text[text.rindex("<|python_tag|>") :].partition("<|eot_id|>")[0]
    assert [(call.name, call.arguments) for call in parse_tool_calls(answer)] == [("shop.order", arguments)]


@pytest.fixture(scope="module")
def server(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: F811
    log = tmp_path_factory.mktemp("server") / "log"
    with start_llama_server(base, alias="tiny", log=log, context=2048, threads=1) as server:
        yield server


@settings(max_examples=SAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(pair=ARGUMENTS, seed=st.integers(0, 99))
def test_a_grammar_lets_a_model_write_valid_arguments_alone(server: Any, pair: Pair, seed: int) -> None:
    """At temperature 1.5 an untrained model writes anything that the grammar of the schema allows."""
    request = {
        "messages": chat({})[:1],
        "tools": [tool(pair[0])],
        "tool_choice": "required",
        "temperature": 1.5,
        "seed": seed,
        "max_tokens": 400,
    }
    choice = post(server, "/v1/chat/completions", request)["choices"][0]
    if choice["finish_reason"] == "length":  # white space, which grammars allow, may go on
        return
    toolbox = Toolbox(None)
    known = toolbox.read_tools([tool(pair[0])], _notes())["shop.order"]
    for call in choice["message"]["tool_calls"]:
        try:
            arguments = parse_json(call["function"]["arguments"])
        except ValueError:  # a number beyond a double, which no grammar knows of; whoever reads it refuses it
            assert known.check(json.loads(call["function"]["arguments"]))
            continue
        assert known.check(arguments) is None


def _notes() -> Any:
    from tuneline.stages.prepare.checks.notes import Notes

    return Notes(Path())
