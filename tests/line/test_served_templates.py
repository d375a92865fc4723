"""Every template we ship, served by llama-server: the prompt is the one that was learned, and calls are read back."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.line.test_llama_server import ASKED, PIZZA, TINY, as_sent, ask, post, write_gguf
from tests.unit.public_templates import OURS
from tests.unit.test_tool_parsers import written
from tuneline.engines.llama_cpp.llama_server import start_llama_server
from tuneline.engines.server import Server
from tuneline.engines.tool_calls import ToolCall, parse_tool_calls
from tuneline.engines.vllm.tool_parsers import tool_parser_for
from tuneline.stages.prepare.rendering.chat_templates import TEMPLATES_FOLDER
from tuneline.stages.prepare.rendering.template_choice import FRAMES_WITHOUT_TOOLS, add_hermes_tools

SHIPPED = {name: add_hermes_tools((TEMPLATES_FOLDER / f"{name}.jinja").read_text()) for name in FRAMES_WITHOUT_TOOLS}
ON_PUBLIC = {f"hermes on {name}": add_hermes_tools(OURS[name]) for name in ("mistral-1", "deepseek-coder", "vicuna")}
CALLS = [("pizza__order", {"name": 'é" {', "to": "Gebim"}), ("door__lock", {"person": "Ana"})]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": tool["function"]["name"],
            "description": "What it does.",
            "parameters": tool["function"]["parameters"],
        },
    }
    for tool in PIZZA
]
"""As the catalogue writes them: llama-server puts the keys in this order, and adds a description to what has none."""
SYSTEM = [{"role": "system", "content": "You route."}]


@pytest.fixture(scope="module", params=sorted(SHIPPED | ON_PUBLIC))
def template(request: pytest.FixtureRequest) -> str:
    return (SHIPPED | ON_PUBLIC)[request.param]


@pytest.fixture(scope="module")
def server(template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(TINY, folder / "model")
    (folder / "model/chat_template.jinja").write_text(template)
    (folder / "scratch").mkdir()
    write_gguf(folder / "model", folder / "base.gguf")
    log = folder / "log"
    with start_llama_server(folder / "base.gguf", alias="t", log=log, context=2048, threads=1) as running:
        yield running


@pytest.fixture(scope="module")
def tokenizer(template: str) -> Any:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = template
    return tokenizer


def called(calls: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    entries = [ToolCall(name.replace("__", "."), given).openai() for name, given in calls]
    return {"role": "assistant", "content": "", "tool_calls": entries}


@pytest.mark.parametrize("tools", [TOOLS, []], ids=["tools", "none"])
@pytest.mark.parametrize("system", [SYSTEM, []], ids=["system", "no system"])
def test_the_prompt_is_the_one_the_model_learned(
    server: Server, tokenizer: Any, tools: list[dict[str, Any]], system: list[dict[str, Any]]
) -> None:
    results = [{"role": "tool", "tool_call_id": "1", "content": '{"ok": "sì"}'} for _ in CALLS]
    talk: list[dict[str, Any]] = [*system, *ASKED, called(CALLS), *results, {"role": "assistant", "content": "Done."}]
    talk = [*talk, {"role": "user", "content": "And now?"}] if tools else [*system, *ASKED]
    learned = tokenizer.apply_chat_template(talk, tools=tools or None, add_generation_prompt=True, tokenize=False)
    body = {"messages": as_sent(talk)} | ({"tools": tools} if tools else {})
    assert post(server, "/apply-template", body)["prompt"] == learned.removeprefix(tokenizer.bos_token)


@pytest.mark.parametrize("number", [1, 2])
def test_calls_come_back_as_tool_calls(server: Server, template: str, tokenizer: Any, number: int) -> None:
    text = written(template, CALLS[:number])
    begun = {"role": "assistant", "content": text}
    end: dict[str, Any] = {"max_tokens": 1, "logit_bias": [[tokenizer.eos_token_id, 100]]}
    read = ask(server, [*ASKED, begun], parallel_tool_calls=True, **end)["message"]["tool_calls"]
    assert [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in read] == CALLS[:number]
    parsed = [(call.name.replace(".", "__"), call.arguments) for call in parse_tool_calls(text)]
    assert parsed == CALLS[:number], "our own parser reads them where a server returned text"


def test_vllm_gets_the_parser_of_the_text(template: str) -> None:
    assert tool_parser_for("llama-3.1-8b", Path("no folder"), template) == "hermes"
