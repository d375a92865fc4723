"""Tool calls: what a model learns to write is what the parser reads and what the chat template renders."""

import json
from functools import cache
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tests.tool_call_text import render_tool_calls
from tuneline.core.paths import ROOT
from tuneline.engines.tool_calls import TAG, ToolCall, parse_tool_calls

WORDS = st.lists(st.sampled_from(["a", "B", "z9", "x1y", "send", "Ab0"]), min_size=1, max_size=2).map("_".join)
NAMES = st.lists(WORDS, min_size=1, max_size=4).map(".".join)
TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ['"; "', "}; {", '\\"', TAG, "‮é🙂", "</s>", "\n\t"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
EXAMPLES = settings(max_examples=40)
CALLS = st.lists(st.builds(ToolCall, NAMES, st.dictionaries(TEXT, VALUES, max_size=4)), min_size=1, max_size=4)


class Generation(Extension):
    """`{% generation %}` as transformers has it: the block renders as its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller: Any) -> str:
        return str(caller())


@cache
def template() -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation])
    # transformers' own `tojson`: plain JSON, not escaped for HTML.
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string((ROOT / "configs" / "templates" / "tiny.jinja").read_text())


def rendered(messages: list[dict[str, Any]], **more: Any) -> str:
    return template().render(messages=messages, bos_token="<|begin_of_text|>", **more)


@EXAMPLES
@given(CALLS)
def test_what_is_rendered_is_parsed_back(calls: list[ToolCall]) -> None:
    assert parse_tool_calls(render_tool_calls(calls)) == calls
    assert parse_tool_calls(render_tool_calls(calls).removeprefix(TAG)) == calls


@EXAMPLES
@given(CALLS)
def test_the_chat_template_writes_the_same_text(calls: list[ToolCall]) -> None:
    asked = {"role": "user", "content": "do it"}
    text = rendered([asked, {"role": "assistant", "content": "", "tool_calls": [c.openai() for c in calls]}])
    assert text.removeprefix(rendered([asked], add_generation_prompt=True)) == render_tool_calls(calls) + "<|eot_id|>"


@EXAMPLES
@given(CALLS)
def test_calls_survive_openais_form_as_objects_and_as_text(calls: list[ToolCall]) -> None:
    for call in calls:
        entry = call.openai()
        assert ToolCall.from_openai(entry) == call
        as_text = {"function": {**entry["function"], "arguments": json.dumps(call.arguments)}}
        assert ToolCall.from_openai(as_text) == call


@EXAMPLES
@given(CALLS, st.integers(1, 8))
def test_a_cut_answer_is_never_taken_for_its_first_calls(calls: list[ToolCall], missing: int) -> None:
    assert parse_tool_calls(render_tool_calls(calls)[:-missing]) == []


@EXAMPLES
@given(st.text())
def test_any_text_is_parsed_without_an_error(text: str) -> None:
    assert isinstance(parse_tool_calls(text), list)


@pytest.mark.parametrize(
    "text",
    ["", "hello", '{"name": "a"}', '{"name": 1, "parameters": {}}', '{"name": "a", "parameters": [1]}', "[1]", "null"]
    + ['I call {"name": "a", "parameters": {}}', '{"name": "a", "parameters": {}} and done', "[" * 5000],
)
def test_what_is_not_wholly_a_call_is_text(text: str) -> None:
    assert parse_tool_calls(text) == []


def test_the_name_is_the_catalogues_and_arguments_may_be_called_either_way() -> None:
    assert parse_tool_calls('{"name": "docs__create", "arguments": {"title": "x"}}') == [
        ToolCall("docs.create", {"title": "x"})
    ]


def test_transformers_renders_the_template_as_we_do() -> None:
    chat = pytest.importorskip("transformers.utils.chat_template_utils")
    calls = [ToolCall("whatsapp.send", {"to": "Ana \"<&>' é🙂", "n": {"a": [1, None, True]}}), ToolCall("x", {})]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "", "tool_calls": [c.openai() for c in calls]},
    ]
    source = (ROOT / "configs" / "templates" / "tiny.jinja").read_text()
    texts, spans = chat.render_jinja_template(
        conversations=[messages], chat_template=source, return_assistant_tokens_mask=True, bos_token="<|begin_of_text|>"
    )
    assert texts[0] == rendered(messages)
    assert [texts[0][a:b] for a, b in spans[0]] == [render_tool_calls(calls) + "<|eot_id|>"], (
        "the learned part is not the answer"
    )
