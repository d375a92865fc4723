"""The assistant as a model of the gateway, by the openai package: its keys, conversations and confirmations."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import yaml

from tests.assistant_runs import HANDLERS, loaded
from tests.scripted_model import ScriptedModel, results, serve_script
from tests.unit.misbehaving import serving
from tuneline.configs.catalogue import load_catalogue
from tuneline.configs.gateway import Assistant
from tuneline.core.errors import BadRequest
from tuneline.core.paths import ROOT
from tuneline.endpoints import keys
from tuneline.endpoints.assistant.learned_tools import LearnedTools
from tuneline.endpoints.gateway.assistant_model import AssistantModel
from tuneline.endpoints.gateway.assistant_setup import make_assistant
from tuneline.endpoints.prompts import find_style
from tuneline.endpoints.tool_selection import ToolSelector
from tuneline.engines.server import free_port
from tuneline.stages.prepare.rendering.tool_preselector import Preselector

SEND = ("money__send", {"to": "Bob", "amount": 5})


def script(request: Any) -> Any:
    question = [message["content"] for message in request["messages"] if message["role"] == "user"][-1]
    if got := results(request):
        return f"{question}: {'; '.join(got)}"
    if "turns" in question:
        return str([message["content"] for message in request["messages"]])
    return [SEND if "send" in question else ("rates__get", {"currency": "IDR"})]


class Served:
    """A gateway with an assistant, a client for each of two keys, and the model behind it."""

    def __init__(self, url: str, model: ScriptedModel, secrets: dict[str, str], module: Path) -> None:
        self.url, self.model, self.secrets, self.module = url, model, secrets, module

    def client(self, owner: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.secrets[owner], max_retries=0)

    def ask(self, owner: str, question: str, **more: Any) -> Any:
        messages: Any = [{"role": "user", "content": question}]
        return self.client(owner).chat.completions.create(model="assistant", messages=messages, **more)

    def request(self, owner: str, method: str, path: str, body: Any = None) -> httpx2.Response:
        head = {"Authorization": f"Bearer {self.secrets[owner]}"}
        return httpx2.request(method, f"{self.url}/v1/assistant/{path}", json=body, headers=head, timeout=30)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("TUNELINE_LOGS", str(tmp_path / "logs"))
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    module = tmp_path / f"gateway_handlers_{tmp_path.name[-8:].replace('-', '_')}.py"
    module.write_text(HANDLERS)
    secrets = {owner: keys.add_key(owner) for owner in ("ann", "eve")}
    with serve_script(script) as model:
        file = tmp_path / "gateway.yaml"
        file.write_text(yaml.safe_dump({"models": {"tuned": {"baseline": {"url": model.url, "model": "m"}}}}))
        port = free_port("127.0.0.1")
        assistant = AssistantModel([str(module)], f"http://127.0.0.1:{port}/v1", "tuned", tmp_path / "assistant")
        with serving(file, with_keys=True, port=port, assistant=assistant) as (url, _):
            yield Served(url, model, secrets, module)


def test_any_client_chats_with_it_and_is_answered_by_what_ran(served: Served) -> None:
    answer = served.ask("ann", "rate?")
    assert "16250" in answer.choices[0].message.content and answer.choices[0].finish_reason == "stop"
    assert "assistant" in [model.id for model in served.client("ann").models.list()]
    pieces = [chunk.choices[0].delta.content or "" for chunk in served.ask("ann", "rate again?", stream=True)]
    assert "".join(pieces).strip().startswith("rate again?: ") and len([piece for piece in pieces if piece]) > 1
    plain: Any = [{"role": "user", "content": "send turns"}]
    other = served.client("ann").chat.completions.create(model="tuned", messages=plain)
    assert other.choices[0].message.content  # the others are as before
    with pytest.raises(openai.BadRequestError, match="the assistant has its own"):
        served.ask("ann", "x", tools=[{"type": "function", "function": {"name": "f"}}])


def test_conversations_go_on_by_their_id_or_by_what_a_client_sends(served: Served) -> None:
    first = served.ask("ann", "rate?")
    conversation = first.model_extra["tuneline"]["conversation"]
    header = {"x-tuneline-conversation": conversation}
    again = served.ask("ann", "turns?", extra_headers=header)
    assert again.choices[0].message.content.startswith("['rate?', None, ")
    sent: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "A"},
        {"role": "assistant", "content": "B"},
        {"role": "user", "content": "turns?"},
    ]
    answer = served.client("ann").chat.completions.create(model="assistant", messages=sent)
    assert answer.choices[0].message.content == "['Be brief.', 'A', 'B', 'turns?']"
    with pytest.raises(openai.NotFoundError, match="this key has none"):
        served.ask("eve", "turns?", extra_headers=header)
    for style, other in (("epico", "piano"), ("piano", "epico")):  # switched in the middle of a conversation
        for more in ({"x-tuneline-style": style}, {}):  # and kept until it is switched again
            served.ask("ann", "turns?", extra_headers=header | more)
            said = served.model.requests[-1]["messages"][0]["content"]
            assert f'style called "{style}"' in said and f'style called "{other}"' not in said
    with pytest.raises(openai.NotFoundError, match="there are epico, piano"):
        served.ask("ann", "x", extra_headers={"x-tuneline-style": "none"})


def test_a_dangerous_call_waits_for_the_key_that_asked(served: Served) -> None:
    answer = served.ask("ann", "send it")
    [waiting] = answer.model_extra["tuneline"]["waiting"]
    assert waiting["arguments"] == SEND[1] and "waits for your confirmation" in answer.choices[0].message.content
    conversation, call = answer.model_extra["tuneline"]["conversation"], f"calls/{waiting['id']}"
    for owner, method, path, body, status in (
        ("eve", "POST", call, {"confirm": True}, 404),
        ("ann", "POST", call, {"confirm": "yes"}, 400),
        ("ann", "GET", call, None, 404),
        ("eve", "GET", f"conversations/{conversation}", None, 404),
        ("eve", "DELETE", f"conversations/{conversation}", None, 404),
    ):
        assert served.request(owner, method, path, body).status_code == status, path
    assert loaded(served.module).ran == []
    assert served.request("eve", "GET", "conversations").json() == {"conversations": []}
    done = served.request("ann", "POST", call, {"confirm": True})
    assert done.status_code == 200 and "sent 5 to Bob" in done.json()["choices"][0]["message"]["content"]
    assert loaded(served.module).ran == [("money.send", "Bob", 5)]
    assert served.request("ann", "POST", call, {"confirm": True}).status_code == 404
    assert len(served.request("ann", "GET", f"conversations/{conversation}").json()["messages"]) == 4
    assert served.request("ann", "DELETE", f"conversations/{conversation}").json() == {"deleted": conversation}
    anonymous = httpx2.post(f"{served.url}/v1/assistant/{call}", json={"confirm": True})
    assert anonymous.status_code == 401


def test_what_it_asks_is_the_callers_own_in_the_log(served: Served, tmp_path: Path) -> None:
    async def both() -> None:
        await asyncio.gather(*(asyncio.to_thread(served.ask, owner, "rate?") for owner in ("ann", "eve")))

    asyncio.run(both())
    lines = "".join(file.read_text() for file in (tmp_path / "logs").rglob("*.jsonl"))
    assert lines.count('"key":"ann"') == lines.count('"key":"eve"') == 2


def test_a_style_is_picked_by_a_header_for_any_model_and_is_in_the_log(served: Served, tmp_path: Path) -> None:
    client, messages = (
        served.client("ann"),
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "turns?"}],
    )
    for style in ("epico", "piano"):
        answer = client.chat.completions.create(
            model="tuned",
            messages=messages,
            extra_headers={"x-tuneline-style": style},  # type: ignore[arg-type]
        )
        assert f'Be brief.\\n\\nWrite in the style called "{style}"' in str(answer.choices[0].message.content)
    with pytest.raises(openai.NotFoundError, match="there are epico, piano"):
        client.chat.completions.create(model="tuned", messages=messages, extra_headers={"x-tuneline-style": "none"})  # type: ignore[arg-type]
    served.ask("ann", "turns?", extra_headers={"x-tuneline-style": "epico"})
    records = [
        json.loads(line) for file in (tmp_path / "logs").rglob("*.jsonl") for line in file.read_text().splitlines()
    ]
    expected = [{style.label: style.hash} for style in map(find_style, ("epico", "piano"))]
    assert [record.get("prompts") for record in records if record["outcome"] == "ok"] == [*expected, expected[0]]


def test_its_tools_are_the_runs_nearest_and_its_documents_those_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_LOGS", str(tmp_path / "logs"))
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    catalogue = load_catalogue(ROOT / "configs" / "tools" / "business.yaml")
    (tmp_path / "facts").mkdir()
    (tmp_path / "facts" / "visa.md").write_text("A KITAS costs 800 euro.")
    learned = LearnedTools(catalogue, ToolSelector(Preselector.from_catalogue(catalogue), 4), picks_only=False)
    monkeypatch.setattr("tuneline.endpoints.gateway.assistant_setup.read_learned_tools", lambda run: learned)
    settings = Assistant(
        model="tuned",
        handlers=("examples/mock_handlers.py",),
        run="r1",
        knowledge=tmp_path / "facts",
        memory="summarise",
    )
    with serve_script(lambda request: "well") as model:
        file = tmp_path / "gateway.yaml"
        file.write_text(yaml.safe_dump({"models": {"tuned": {"baseline": {"url": model.url, "model": "m"}}}}))
        port = free_port("127.0.0.1")
        assistant = make_assistant(settings, {}, f"http://127.0.0.1:{port}/v1", tmp_path / "assistant")
        assert assistant is not None
        with serving(file, port=port, assistant=assistant) as (url, _):
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
            question: Any = [{"role": "user", "content": "Send a WhatsApp message about the KITAS"}]
            answer = client.chat.completions.create(model="assistant", messages=question)
        [request] = model.requests
    names = [tool["function"]["name"] for tool in request["tools"]]
    assert len(names) == 4 and "whatsapp__send" in names
    assert "A KITAS costs 800 euro." in request["messages"][0]["content"]
    assert answer.model_extra["tuneline"]["sources"] == ["visa.md:1"]


def test_settings_that_do_not_fit_are_named(tmp_path: Path) -> None:
    assert make_assistant(Assistant(), {}, "http://127.0.0.1:1/v1", tmp_path) is None
    with pytest.raises(BadRequest, match="model is missing"):
        make_assistant(Assistant(), {"handlers": ["a.py"]}, "http://127.0.0.1:1/v1", tmp_path)
    with pytest.raises(BadRequest, match="one of run and catalogue"):
        make_assistant(Assistant(run="r"), {"catalogue": tmp_path / "c.yaml"}, "http://127.0.0.1:1/v1", tmp_path)
