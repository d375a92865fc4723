"""Forced tool calls and several answers, as the openai client asks for them, at `tuneline serve` and the gateway."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import APIConnectionError, BadRequestError, InternalServerError, NotFoundError, OpenAI

from tests.conftest import environment
from tuneline.configs.catalogue import load_catalogue
from tuneline.core.paths import ROOT
from tuneline.endpoints import keys
from tuneline.endpoints.forbidden_calls import OPENERS
from tuneline.endpoints.promotion import promote
from tuneline.engines.server import free_port
from tuneline.engines.tool_calls import parse_tool_calls

TOOLS: list[Any] = load_catalogue(ROOT / "configs/tools/handlers.yaml").openai()
QUESTION: list[Any] = [{"role": "user", "content": "Send Maria a WhatsApp saying the keys are ready"}]
OTHER = {"type": "function", "function": {"name": "kbli__lookup"}}
DEADLINE_S = 60


@pytest.fixture(scope="module", params=["serve", "gateway"])
def server(
    request: pytest.FixtureRequest, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[OpenAI, str]]:
    """A client, and the model's name there."""
    folder, port, patch = tmp_path_factory.mktemp("forced"), free_port("127.0.0.1"), pytest.MonkeyPatch()
    for name, value in environment(home).items():
        patch.setenv(name, value)
    patch.setenv("TUNELINE_POLICY", str(folder / "policy"))
    patch.setenv("TUNELINE_LOGS", str(folder / "logs"))
    key, model = "unused", "whole"
    if request.param == "gateway":
        promote("whole", "router", "a test")
        key, model = keys.add_key("maria"), "router"
    words = ["serve", "whole"] if request.param == "serve" else ["gateway"]
    command = [sys.executable, "-m", "tuneline", *words, "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ))
    try:
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0)
        _wait_until_it_answers(client, model)
        yield client, model
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
        patch.undo()


def _wait_until_it_answers(client: OpenAI, model: str) -> None:
    until = time.monotonic() + DEADLINE_S
    while True:
        try:
            client.chat.completions.create(model=model, messages=QUESTION, max_tokens=1)
            return
        except (APIConnectionError, InternalServerError, NotFoundError):
            assert time.monotonic() < until
            time.sleep(0.2)


def ask(server: tuple[OpenAI, str], **fields: Any) -> Any:
    client, model = server
    fields = {"tools": TOOLS, "messages": QUESTION, "temperature": 0, "max_tokens": 200} | fields
    return client.chat.completions.create(model=model, **fields)


def called(completion: Any) -> list[tuple[str, dict[str, Any]]]:
    calls = completion.choices[0].message.tool_calls or ()
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls]


def test_a_named_tool_is_called(server: tuple[OpenAI, str]) -> None:
    [(name, arguments)] = called(ask(server, tool_choice=OTHER))
    assert name == "kbli__lookup" and arguments.keys() <= {"activity", "code"}
    choice = {"mode": "required", "tools": [OTHER]}
    assert [
        name for name, _ in called(ask(server, tool_choice={"type": "allowed_tools", "allowed_tools": choice}))
    ] == ["kbli__lookup"]
    names = [
        call.function.name
        for chunk in ask(server, tool_choice=OTHER, stream=True)
        for choice in chunk.choices
        for call in choice.delta.tool_calls or ()
        if call.function and call.function.name
    ]
    assert names == ["kbli__lookup"]


def test_a_call_is_required_or_there_is_none(server: tuple[OpenAI, str]) -> None:
    assert len(called(ask(server, tool_choice="required"))) == 1
    in_words = ask(server, tool_choice="none")
    assert called(in_words) == [] and not parse_tool_calls(in_words.choices[0].message.content or "")
    assert not any(opener in (in_words.choices[0].message.content or "") for opener in OPENERS)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "coffee"}}}, "tool_choice: coffee: not among"),
        ({"tool_choice": OTHER, "tools": []}, "tool_choice: only with `tools`"),
        ({"tool_choice": "required", "tools": None}, "tool_choice: only with `tools`"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice: of type 'custom'"),
        ({"tool_choice": {"type": "function"}}, "tool_choice: names no tool"),
    ],
)
def test_a_choice_that_cannot_be_honoured_is_refused_by_name(
    server: tuple[OpenAI, str], fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(server, **fields)
    assert reason in str(caught.value) and caught.value.param == "tool_choice"


def test_several_answers_are_given_or_refused_by_name(server: tuple[OpenAI, str]) -> None:
    if server[1] == "router":  # the gateway's engines answer four requests at a time
        assert len(ask(server, n=2).choices) == 2
    else:
        with pytest.raises(BadRequestError, match="'n'"):
            ask(server, n=2)
