"""Clients of the OpenAI API before the gateway, each by its real package: they change their address and nothing else.

LiteLLM, LangChain and CrewAI have an environment of their own, which `make test-all` makes (docs/packages.md).
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import BadRequestError, OpenAI
from pydantic import BaseModel

from tests.environments import CLIENTS
from tests.unit.misbehaving import ANSWER, USAGE, WORDS, Connection, MisbehavingUpstream, running, serving, target
from tuneline.core.paths import ROOT
from tuneline.endpoints import keys

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
QUESTION: Any = [{"role": "user", "content": "weather in Oslo?"}]
WEATHER = {"city": "Oslo", "degrees": 7}
AFTER_THE_CALL = "It is 7 degrees in Oslo."


class Weather(BaseModel):
    """What a client asks for by its schema."""

    city: str
    degrees: int


def message_for(body: dict[str, Any]) -> dict[str, Any]:
    """Return what the scripted model says: a call, what the call brought, JSON, or the words."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return {"role": "assistant", "content": f"It is {last['content']}."}
    if body.get("tools"):
        function = {"name": body["tools"][0]["function"]["name"], "arguments": '{"city": "Oslo"}'}
        return {"role": "assistant", "tool_calls": [{"index": 0, "id": "call_1", "type": "function",
                                                     "function": function}]}  # fmt: skip
    as_json = (body.get("response_format") or {}).get("type") == "json_schema"
    return {"role": "assistant", "content": json.dumps(WEATHER) if as_json else ANSWER}


async def scripted(c: Connection) -> None:
    """Answer whatever a client asks for, streamed or whole."""
    body, message = c.attempt.body, message_for(c.attempt.body)
    scores = [{"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": []} for word in WORDS]
    logprobs = {"content": scores, "refusal": None} if body.get("logprobs") else None
    reason = "tool_calls" if "tool_calls" in message else "stop"
    if not body.get("stream"):
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": logprobs}
        await c.whole(200, {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"],
                            "choices": [choice], "usage": USAGE})  # fmt: skip
        return
    await c.begin()
    if message.get("content") == ANSWER:
        await c.tokens()
    else:
        await c.event({"choices": [{"index": 0, "delta": message}]})
    await c.event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        await c.event({"choices": [], "usage": USAGE})
    await c.event("[DONE]")
    await c.send(b"0\r\n\r\n")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A gateway with keys before a scripted model: its address with /v1, and a key."""
    folder = tmp_path_factory.mktemp("clients")
    patch = pytest.MonkeyPatch()
    patch.setenv("TUNELINE_LOGS", str(folder / "logs"))
    patch.setenv("TUNELINE_POLICY", str(folder / "policy"))
    key = keys.add_key("maria")
    with running(MisbehavingUpstream({"scripted": scripted})) as upstream:
        models = {"router": {"baseline": target(upstream, "scripted", response_s=5)}}
        (folder / "gateway.yaml").write_text(yaml.safe_dump({"models": models}))
        with serving(folder / "gateway.yaml", with_keys=True) as (url, _):
            yield f"{url}/v1", key
    patch.undo()


def test_the_official_client_gets_all_it_can_ask_for(gateway: tuple[str, str]) -> None:
    client = OpenAI(base_url=gateway[0], api_key=gateway[1], max_retries=0)
    chat = client.chat.completions
    whole = chat.create(model="router", messages=QUESTION, logprobs=True, top_logprobs=2)
    assert whole.choices[0].message.content == ANSWER and whole.usage and whole.usage.completion_tokens == 60
    assert [entry.token for entry in whole.choices[0].logprobs.content] == WORDS  # type: ignore[union-attr]
    chunks = list(chat.create(model="router", messages=QUESTION, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    assert chunks[-1].usage and chunks[-1].usage.prompt_tokens == 21
    called = chat.create(model="router", messages=QUESTION, tools=[TOOL]).choices[0].message
    assert called.tool_calls and called.tool_calls[0].function.arguments == '{"city": "Oslo"}'  # type: ignore[union-attr]
    result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "7 degrees in Oslo"}
    turns = [*QUESTION, called.model_dump(exclude_none=True), result]
    assert chat.create(model="router", messages=turns, tools=[TOOL]).choices[0].message.content == AFTER_THE_CALL
    with chat.stream(model="router", messages=QUESTION, tools=[TOOL]) as stream:
        last = stream.get_final_completion().choices[0]
    assert last.finish_reason == "tool_calls" and last.message.tool_calls[0].function.name == "weather"  # type: ignore[index]
    parsed = chat.parse(model="router", messages=QUESTION, response_format=Weather).choices[0].message.parsed
    assert parsed == Weather(**WEATHER)
    with pytest.raises(BadRequestError, match="top_p"):
        chat.create(model="router", messages=QUESTION, top_p=7)


def test_curl_gets_an_answer_and_a_stream(gateway: tuple[str, str]) -> None:
    def curl(*words: str, **body: Any) -> str:
        sent = json.dumps({"model": "router", "messages": QUESTION} | body)
        command = ["curl", "-sS", "--noproxy", "*", f"{gateway[0]}/chat/completions", "-d", sent]
        headers = ["-H", f"Authorization: Bearer {gateway[1]}", "-H", "Content-Type: application/json"]
        return subprocess.run([*command, *headers, *words], check=True, capture_output=True, text=True).stdout

    assert json.loads(curl())["choices"][0]["message"]["content"] == ANSWER
    lines = curl("-N", stream=True).strip().split("\n\n")
    assert lines[-1] == "data: [DONE]" and len(lines) == 63 and all(line.startswith("data: ") for line in lines)
    assert curl("-o", "/dev/null", "-w", "%{http_code}", top_p=7) == "400"


@pytest.mark.skipif(CLIENTS not in os.environ, reason=f"no environment with other clients: {CLIENTS} names its Python")
@pytest.mark.parametrize("client", ["litellm", "langchain", "crewai"])
def test_other_clients_get_all_they_can_ask_for(gateway: tuple[str, str], client: str, tmp_path: Path) -> None:
    script = ROOT / f"tests/clients/{client}_client.py"
    environment = os.environ | {"HOME": str(tmp_path), "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*"}
    command = [os.environ[CLIENTS], "-P", str(script), *gateway, "router"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["text"] == answer["streamed"] == ANSWER and answer["parsed"] == WEATHER
    assert answer["tokens"] >= 60
    if client == "crewai":
        assert answer["crew"] == AFTER_THE_CALL
        return
    assert answer["streamed_tokens"] == 60 and answer["call"] == ["weather", {"city": "Oslo"}]
    assert answer["logprobs"] == WORDS and "top_p" in answer["refused"]
    assert answer.get("after_the_call", AFTER_THE_CALL) == AFTER_THE_CALL
