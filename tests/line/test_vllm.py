"""A real vLLM, where one is named (docs/vllm.md): what it is shown, what comes back, promotion, judging through it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from tokenizers import Tokenizer

from tests.conftest import environment
from tests.line.test_gateway import status, wait_for
from tests.line.test_llama_server import (
    ASKED,
    CALL,
    CONVERSATIONS,
    PIZZA,
    TINY,
    as_sent,
    ask,
    forged_bodies,
    post,
    request,
)
from tests.runs import make_again
from tuneline.configs.recipe import recipe_of
from tuneline.core.artifacts import open_artifact
from tuneline.core.errors import NotFound, StageFailed
from tuneline.core.paths import ROOT
from tuneline.endpoints import keys
from tuneline.endpoints.promotion import promote, rollback
from tuneline.engines.control_tokens import read_tokenizer_tokens
from tuneline.engines.server import Server, free_port
from tuneline.engines.tool_calls import TAG, ToolCall
from tuneline.engines.vllm import vllm_server
from tuneline.engines.vllm.tool_parsers import LLAMA_3, tool_parser_for
from tuneline.rehearsal.image_builds.programs import PARSE_ARGUMENTS
from tuneline.stages.evaluate import evaluate
from tuneline.stages.line import ORDER
from tuneline.stages.prepare.prepared_run import TEMPLATE, load_tools, read_prepared
from tuneline.stages.prepare.rendering.renderer import Renderer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(vllm_server.find_vllm() is None, reason=f"no vLLM: {vllm_server.EXECUTABLE} names none"),
]

HIDDEN = "{%- set tools = none %}"


@pytest.fixture(scope="module")
def adapter(home: Path) -> Path:
    return home / "runs/whole/train/adapter"


@pytest.fixture(scope="module")
def server(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("vllm") / "log"
    parser = tool_parser_for("tiny", TINY)
    with vllm_server.start_vllm(
        TINY, alias="tiny", log=log, context=1024, parser=parser, adapters={"tuned": adapter}, rank=8
    ) as server:
        yield server


def shown(server: Server, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, **more: Any) -> list[int]:
    body = {"model": "tuned", "messages": as_sent(messages), "add_generation_prompt": False} | more
    found: list[int] = post(server, "/tokenize", body | ({"tools": tools} if tools else {}))["tokens"]
    return found


def test_our_arguments_are_those_of_vllms_own_parser() -> None:
    """As `tuneline rehearse --build serve` asks it in the image."""
    vllm = vllm_server.find_vllm()
    assert vllm
    arguments = vllm_server.serve_arguments(TINY, "base", 8000, 512, LLAMA_3, {"tuned": TINY}, 16, 1, True)
    for more, code in ((["--gpu-memory-utilization", "0.45"], 0), (["--no-such-option"], 2)):
        command = [str(vllm.with_name("python")), "-c", PARSE_ARGUMENTS]
        request = json.dumps([*arguments, *more])
        parsed = subprocess.run(command, input=request, capture_output=True, text=True, check=False)
        assert parsed.returncode == code, parsed.stderr


def test_rows_are_rendered_as_they_were_learned(server: Server, home: Path) -> None:
    prepared = home / "runs/whole/prepare"
    renderer = Renderer(TINY, load_tools(prepared), prepared / TEMPLATE)
    rows = read_prepared(prepared / "validation.jsonl")
    assert len(rows) == 16 and any(row.tools for row in rows)
    for row in rows:
        assert shown(server, row.chat(), renderer.tools(row)) == renderer(row).ids


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["asked", "system", "several"])
@pytest.mark.parametrize("tools", [PIZZA, []], ids=["tools", "none"])
@pytest.mark.parametrize("own", ["", HIDDEN], ids=["the base's", "a request's own"])
def test_hard_text_too_and_by_a_template_that_comes_with_the_request(
    server: Server, messages: list[dict[str, Any]], tools: list[dict[str, Any]], own: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(TINY)
    template = own + tokenizer.chat_template
    learned = tokenizer.apply_chat_template(messages, tools=tools or None, chat_template=template, tokenize=False)
    ids = tokenizer(learned, add_special_tokens=False).input_ids
    assert shown(server, messages, tools, **({"chat_template": template} if own else {})) == ids


@pytest.mark.parametrize("where", forged_bodies())
def test_control_tokens_of_a_caller_are_text_to_the_model(server: Server, where: str) -> None:
    tokens = read_tokenizer_tokens(TINY)
    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    ids = {tokenizer.token_to_id(text) for text in tokens.texts}

    def controls(body: dict[str, Any]) -> int:
        return sum(token in ids for token in shown(server, body["messages"], body.get("tools", [])))

    forged, plain = forged_bodies()[where]
    assert controls(tokens.neutralize(forged)) == controls(plain)
    assert controls(forged) > controls(plain) or where == "text parts"


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_call_comes_back_as_a_tool_call_and_a_stream_says_the_same(server: Server, choice: str) -> None:
    whole = ask(server, ASKED, model="tiny", tool_choice=choice)
    assert [ToolCall.from_openai(call) for call in whole["message"]["tool_calls"]] == [CALL]
    client: Any = OpenAI(base_url=server.base_url, api_key="none").chat.completions
    stream = client.create(model="tiny", messages=ASKED, tools=PIZZA, temperature=0, tool_choice=choice, stream=True)
    parts = [call for chunk in stream for one in chunk.choices for call in one.delta.tool_calls or []]
    name = "".join(part.function.name or "" for part in parts)
    arguments = "".join(part.function.arguments or "" for part in parts)
    assert len(parts) > 2 and ToolCall.from_openai({"function": {"name": name, "arguments": arguments}}) == CALL


def test_after_a_call_has_begun_a_grammar_of_the_offered_tools_decides(server: Server) -> None:
    """As with llama-server: the tiny base would call pizza.order, which is not offered."""
    lamp = {"type": "object", "properties": {"kind": {"enum": ["red"]}}, "required": ["kind"]}
    tools = [{"type": "function", "function": {"name": "lamp__rate", "parameters": lamp}}]
    called = ask(server, ASKED, model="tiny", tools=tools)["message"]["tool_calls"]
    assert [ToolCall.from_openai(call) for call in called] == [ToolCall("lamp.rate", {"kind": "red"})]


def test_a_call_where_none_is_offered_keeps_its_tag(server: Server) -> None:
    choice = ask(server, ASKED, model="tiny", tool_choice="none", skip_special_tokens=False)
    assert choice["message"]["content"].startswith(TAG) and choice["finish_reason"] == "stop"


def test_adapters_come_and_go_while_it_runs(server: Server, adapter: Path, tmp_path: Path) -> None:
    def names() -> set[str]:
        return {model["id"] for model in json.loads(request(server, "/v1/models"))["data"]}

    vllm_server.load_adapter(server, "again", adapter)
    assert names() == {"tiny", "tuned", "again"}
    told = [ask(server, ASKED, model=name, max_tokens=8)["message"] for name in ("tuned", "again")]
    assert told[0]["content"] == told[1]["content"]
    vllm_server.unload_adapter(server, "again")
    vllm_server.unload_adapter(server, "again")  # what is gone is gone
    assert names() == {"tiny", "tuned"}
    with pytest.raises(StageFailed, match=r"load_lora_adapter none: 4\d\d: .*none"):
        vllm_server.load_adapter(server, "none", tmp_path / "none")
    wide = shutil.copytree(adapter, tmp_path / "wide")
    config = json.loads((wide / "adapter_config.json").read_text())
    (wide / "adapter_config.json").write_text(json.dumps(config | {"r": 64}))
    with pytest.raises(StageFailed, match=r"load_lora_adapter wide: .*rank 64 is greater"):
        vllm_server.load_adapter(server, "wide", wide)


def test_it_has_metrics_and_keeps_a_shared_prefix(server: Server) -> None:
    def hits() -> float:
        told = request(server, "/metrics").decode().splitlines()
        return sum(float(line.split()[-1]) for line in told if line.startswith("vllm:prefix_cache_hits_total{"))

    long = [{"role": "user", "content": "one pizza for Gebim " * 40}]
    ask(server, long, model="tiny", max_tokens=1)
    before = hits()
    ask(server, long, model="tiny", max_tokens=1)
    assert hits() > before + 100


def test_why_it_does_not_start_is_said(tmp_path: Path) -> None:
    """The end of vLLM's log says only that something failed."""
    model = shutil.copytree(TINY, tmp_path / "tiny", ignore=shutil.ignore_patterns("*.safetensors"))
    with (
        pytest.raises(StageFailed, match=r"cause: RuntimeError: Cannot find any model weights"),
        vllm_server.start_vllm(model, alias="t", log=tmp_path / "log", context=256),
    ):
        pass


def test_an_executable_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(vllm_server.EXECUTABLE, "/nowhere/vllm")
    with pytest.raises(NotFound, match="docs/vllm.md"):
        vllm_server.find_vllm()


def copy_of(run: Path, name: str, form: str) -> Path:
    copied = run.with_name(name)
    shutil.copytree(run, copied)
    raw = json.loads((copied / "recipe.json").read_text())
    (copied / "recipe.json").write_text(json.dumps(raw | {"name": name, "serve": raw["serve"] | {"form": form}}))
    return copied


def test_two_names_share_a_base_and_change_while_they_are_served(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        environment(home) | {"TUNELINE_POLICY": str(tmp_path / "policy"), "TUNELINE_LOGS": str(tmp_path / "logs")}
    ).items():
        monkeypatch.setenv(name, value)
    one, two = (copy_of(home / "runs/whole", name, "adapter") for name in ("one", "two"))
    make_again(one, "evaluate")
    (two / "prepare" / TEMPLATE).write_text(HIDDEN + (TINY / "chat_template.jinja").read_text())
    for stage in ORDER[1:]:
        make_again(two, stage)
    tools, port, key = load_tools(two / "prepare").openai(), free_port("127.0.0.1"), keys.add_key("maria")  # type: ignore[union-attr]
    url, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {key}"}
    promote("one", "a", "a test")
    promote("two", "b", "a test")

    def answered(name: str) -> dict[str, Any]:
        body = {"model": name, "messages": ASKED, "tools": tools, "max_tokens": 2}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=120)
        assert answer.status_code == 200, answer.text  # somebody serves all the while
        told: dict[str, Any] = answer.json()
        return told

    def becomes(name: str, version: int) -> None:
        deadline = time.monotonic() + 60
        while answered(name)["model"] != f"{name}-{version}":
            assert time.monotonic() < deadline
            time.sleep(0.2)

    process = subprocess.Popen(
        [sys.executable, "-m", "tuneline", "gateway", "--port", str(port)], cwd=ROOT, env=dict(os.environ)
    )
    try:
        wait_for(lambda: status(url) == 200, 600)
        assert (answered("a")["model"], answered("b")["model"]) == ("a-1", "b-1")
        assert answered("a")["usage"]["prompt_tokens"] > answered("b")["usage"]["prompt_tokens"] + 50  # each its own
        promote("two", "a", "a test")
        becomes("a", 2)
        assert answered("a")["usage"]["prompt_tokens"] == answered("b")["usage"]["prompt_tokens"]
        assert rollback("a").run == "one"
        becomes("a", 3)
        theirs = {"model": "a", "messages": ASKED, "chat_template": "none of ours"}
        assert httpx.post(f"{url}/v1/chat/completions", json=theirs, headers=headers).status_code == 400
        path = {"model": "a", "lora_name": "x", "lora_path": "/"}
        assert httpx.post(f"{url}/v1/load_lora_adapter", json=path, headers=headers).status_code == 404
    finally:
        process.terminate()
        process.wait(60)


def test_what_vllm_serves_is_judged_through_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(home).items():
        monkeypatch.setenv(name, value)
    run = copy_of(home / "runs/whole", "judged", "adapter")
    shutil.rmtree(run / "evaluate")
    found = evaluate(recipe_of(run), run).metrics
    names = {target: engine["name"] for target, engine in found["engines"].items()}
    assert names == {"base": "vLLM", "tuned-F16": "vLLM", "tuned-Q4_K_M": "llama.cpp"}
    assert found["engines"]["base"]["version"][0].isdigit()
    theirs = open_artifact(home / "runs/whole/evaluate").metrics["scoreboard"]
    ours, before = ({row["target"]: row for row in board} for board in (found["scoreboard"], theirs))
    assert ours.keys() == before.keys() and all(row["n"] == 16 for row in ours.values())
    # the same prompts and weights; what is left between two engines is rounding, and the grammar of a call
    assert all(abs(ours[t]["name_accuracy"] - before[t]["name_accuracy"]) <= 0.25 for t in ours)
