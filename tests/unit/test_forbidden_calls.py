"""`tool_choice: none` is answered in words: no tools are shown, and what a call begins with cannot be generated."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tuneline.endpoints.engine_address import EngineAddress
from tuneline.endpoints.forbidden_calls import BEGIN, OPENERS, exclude_texts, llama_cpp_fields, vllm_fields
from tuneline.engines.tool_calls import parse_tool_calls

TOOLS = [{"type": "function", "function": {"name": "mail", "parameters": {"type": "object"}}}]
ASKED = {"messages": [{"role": "user", "content": "hello"}], "tools": TOOLS}


def accepts(grammar: str, text: str) -> bool:
    """Whether a grammar as `exclude_texts` writes it has this text: each rule is a set of steps, and may end."""
    rules = dict(line.split(" ::= ") for line in grammar.splitlines())
    state = rules["root"]
    for character in text:
        steps = re.findall(r"\[(\^?)((?:\\x[0-9A-F]{2})+)\] (s\d+)", rules[state])
        code = f"\\x{ord(character):02X}"
        states = [after for is_not, codes, after in steps if (code in codes) is not bool(is_not)]
        if not states:
            return False
        (state,) = states
    return True


@given(some.lists(some.sampled_from(["ab", "aab", f"{BEGIN}b", "ba"]), unique=True, min_size=1), some.text("abc"))
def test_a_grammar_has_all_texts_but_those_that_are_excluded(texts: list[str], text: str) -> None:
    excluded = any(part in BEGIN + text for part in texts)
    assert accepts(exclude_texts(tuple(texts)), text) is not excluded


@pytest.mark.parametrize(
    "text",
    [
        '<|python_tag|>{"name": "mail", "parameters": {}}',
        'Sure. <tool_call>\n{"name": "mail", "arguments": {}}\n</tool_call>',
        '[TOOL_CALLS] [{"name": "mail", "arguments": {}}]',
        ' {"name": "mail", "parameters": {}}',
    ],
)
def test_no_call_can_be_written(text: str) -> None:
    assert parse_tool_calls(text) and not accepts(llama_cpp_fields()["grammar"], text)


@pytest.mark.parametrize("text", ["", "a < b", "[1, 2] <tool> {x}", '{"total": 3}', "1 << 2 <|", 'It is {"name": 1}.'])
def test_other_text_can(text: str) -> None:
    assert accepts(llama_cpp_fields()["grammar"], text)


@pytest.mark.parametrize("fields", [llama_cpp_fields(), vllm_fields()])
def test_an_engine_is_shown_no_tools_and_told_what_not_to_write(fields: dict[str, Any]) -> None:
    address = EngineAddress("http://x/v1", {"model": "m"}, known_choices=(), without_calls=fields)
    sent = address.complete("chat/completions", ASKED | {"tool_choice": "none", "parallel_tool_calls": True})
    assert sent == {"messages": ASKED["messages"], "model": "m"} | fields
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": TOOLS}}
    assert address.complete("chat/completions", ASKED | {"tool_choice": allowed}) == sent
    json_form = {"response_format": {"type": "json_object"}}
    stated = address.complete("chat/completions", ASKED | json_form | {"tool_choice": "none"})
    assert stated == {"messages": ASKED["messages"], "model": "m"} | json_form
    assert address.complete("chat/completions", ASKED | {"tool_choice": "auto"})["tools"] == TOOLS


def test_whoever_sends_a_request_on_leaves_the_choice_to_the_engine() -> None:
    sent = EngineAddress("http://x/v1", {"model": "m"}).complete("chat/completions", ASKED | {"tool_choice": "none"})
    assert sent["tools"] == TOOLS and sent["tool_choice"] == "none"
    assert tuple(vllm_fields()["bad_words"]) == OPENERS
