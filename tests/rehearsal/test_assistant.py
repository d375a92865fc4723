"""The assistant of `configs/gateway.yaml` deployed: its handler runs in the gateway's container, which is one."""

import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.rehearsal.conftest import Checkout, Stage, eventually
from tests.rehearsal.imports import installed, needed
from tests.scripted_model import Request, ScriptedModel, results, serve_script
from tuneline.rehearsal.session import Rehearsal
from tuneline.rehearsal.worker import NO_NAMESPACES_MESSAGE, can_make_namespaces

IMPORTED = (
    *("volumes/gateway_container.py", "volumes/conversation_copies.py"),
    *("endpoints/gateway", "endpoints/assistant", "endpoints/remote_engines.py"),
)
HANDLERS = '''
import os

from tuneline.endpoints.assistant import handler


@handler("rates.get")
def rate(currency: str) -> str:
    """The price of a euro."""
    return f"16250 {currency} in {os.environ['MODAL_TASK_ID']}"
'''
SETTINGS = """
models:
  tuned: {{baseline: {{url: "{url}", model: m}}}}
assistant: {{model: tuned, handlers: [shop_rates], knowledge: handbook}}
"""


def script(request: Request) -> Any:
    question = [message["content"] for message in request["messages"] if message["role"] == "user"][-1]
    if got := results(request):
        return f"{question}: {'; '.join(got)}"
    if "turns" in question:
        return str([message["content"] for message in request["messages"]])
    return [("rates__get", {"currency": "IDR"})]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A plane of its own: the app is deployed with other settings."""
    if not can_make_namespaces():
        pytest.skip(NO_NAMESPACES_MESSAGE)
    folder = tmp_path_factory.mktemp("assistant")
    with Rehearsal(folder) as rehearsal:
        yield Stage(rehearsal, folder)


@pytest.fixture
def model(stage: Stage) -> Iterator[ScriptedModel]:
    with serve_script(script) as model:
        stage.rehearsal.plane.let_through.append(int(model.url.rpartition(":")[2].partition("/")[0]))
        yield model


def configure(checkout: Checkout, model: ScriptedModel) -> None:
    (checkout.folder / "configs/gateway.yaml").write_text(SETTINGS.format(url=model.url))
    (checkout.folder / "shop_rates.py").write_text(HANDLERS)
    (checkout.folder / "handbook").mkdir()
    (checkout.folder / "handbook/visa.md").write_text("A KITAS costs 800 euro.")


def test_its_handler_runs_there_and_its_conversations_outlive_the_container(
    stage: Stage, checkout: Checkout, model: ScriptedModel
) -> None:
    configure(checkout, model)
    url = re.findall(r"Gateway\.serve -> (http\S+)", checkout.modal("deploy", "app.py"))[0]
    layers = stage.ask("apps/tuneline")["Gateway.*"]["layers"]
    assert needed(*IMPORTED) - installed(layers) == set() and any(re.search(r"(?m)^mcp==", layer) for layer in layers)
    key = next(line for line in stage.tuneline("keys", "add", "ann", "--modal").splitlines() if line.startswith("tl-"))
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120)

    def ask(question: str, conversation: str = "") -> Any:
        headers = {"x-tuneline-conversation": conversation} if conversation else {}
        messages: Any = [{"role": "user", "content": question}]
        return client.chat.completions.create(model="assistant", messages=messages, extra_headers=headers)

    first = ask("rate of a KITAS?")
    said, conversation = first.choices[0].message.content, first.model_extra["tuneline"]["conversation"]
    assert "16250 IDR in ta-" in said and first.model_extra["tuneline"]["sources"] == ["visa.md:1"]
    assert "A KITAS costs 800 euro." in model.requests[0]["messages"][0]["content"]
    kept = stage.volume("logs") / "assistant"
    eventually(lambda: len(list(kept.glob("*.db"))) == 1, 60)
    [copy] = kept.glob("*.db")
    eventually(lambda: copy.stat().st_size > 0 and len(list(kept.glob("*/trace.jsonl"))) == 1)
    plane = stage.rehearsal.plane
    [container] = [c for c in plane.state.containers.values() if c.alive and "Gateway" in c.function.name]
    assert container.process
    os.kill(container.process.pid, signal.SIGKILL)
    eventually(lambda: not container.alive)
    again = ask("turns?", conversation)
    assert "rate of a KITAS?" in again.choices[0].message.content
    eventually(lambda: [copy] != list(kept.glob("*.db")), 60)
    assert len(list(kept.glob("*.db"))) == 1  # the next container's, which replaced it


def test_what_cannot_work_is_refused_before_anything_is_built(
    stage: Stage, checkout: Checkout, model: ScriptedModel
) -> None:
    configure(checkout, model)
    (checkout.folder / "shop_rates.py").unlink()
    missing = checkout.modal("deploy", "app.py", code=1)
    assert "assistant.handlers[0]: shop_rates: no such file or folder" in missing
