"""Whether an answer's tool calls fit: a request's schemas are a caller's text, and lead nowhere."""

import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tuneline.endpoints.gateway.answer_checks import AnswerText, calls_are_valid


def check(parameters: dict[str, Any], arguments: str = "{}") -> bool | None:
    answer = AnswerText("chat/completions")
    call = {"function": {"name": "send", "arguments": arguments}}
    answer.add_event({"choices": [{"message": {"tool_calls": [call]}}]})
    tool = {"type": "function", "function": {"name": "send", "parameters": parameters}}
    return calls_are_valid({"tools": [tool]}, answer)


@pytest.mark.parametrize("keyword", ["$ref", "$schema", "$dynamicRef"])
def test_a_schema_makes_the_gateway_ask_no_server(keyword: str) -> None:
    """Whoever holds a key would reach what only the gateway's network reaches, and stop all requests meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        began = time.monotonic()
        check({"properties": {"a": {keyword: f"http://127.0.0.1:{server.getsockname()[1]}/secret"}}})
        check({keyword: f"http://127.0.0.1:{server.getsockname()[1]}/secret"})
        assert time.monotonic() - began < 2
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_schema_tells_nothing_of_the_gateways_files(tmp_path: Path) -> None:
    """Else a caller learns from `valid`, and from what comes of it, what a file says."""
    (tmp_path / "text.json").write_text('{"type": "string"}')
    (tmp_path / "object.json").write_text('{"type": "object"}')
    answers = {check({"$ref": f"file://{tmp_path / name}"}) for name in ("text.json", "object.json", "none.json")}
    assert answers == {True}


def test_arguments_are_held_against_the_schema() -> None:
    schema = {"type": "object", "properties": {"to": {"$ref": "#/$defs/name"}}, "$defs": {"name": {"type": "string"}}}
    assert check(schema, '{"to": "a"}') is True
    assert check(schema, '{"to": 1}') is False
