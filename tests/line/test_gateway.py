"""The gateway before real engines: keys, promotions under load, engines that hang, changed files, tools."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import AuthenticationError, NotFoundError, OpenAI

from tests.conftest import environment
from tests.runs import flip_a_bit, make_again
from tuneline.configs.catalogue import dotted_name
from tuneline.core.paths import ROOT
from tuneline.endpoints import keys
from tuneline.endpoints.engine_liveness import Liveness
from tuneline.endpoints.engine_pool import EnginePool
from tuneline.endpoints.promotion import promote, rollback
from tuneline.engines.server import free_port
from tuneline.stages.prepare.prepared_run import load_tools
from tuneline.stages.prepare.rendering.tool_preselector import PRESELECTOR_FILE, Preselector

HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def policy(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in environment(home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    monkeypatch.setenv("TUNELINE_LOGS", str(tmp_path / "logs"))
    return tmp_path / "policy"


@pytest.fixture
def url(policy: Path) -> Iterator[str]:
    port = free_port("127.0.0.1")
    command = [sys.executable, "-m", "tuneline", "gateway", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stdout=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def status(url: str) -> int:
    with suppress(httpx2.TransportError):
        return httpx2.get(f"{url}/ready").status_code
    return 0


@dataclass
class Reply:
    """A stream that was read to its end."""

    began: float
    ended: float
    version: int
    whole: bool


def test_promotions_under_load_cut_no_stream_and_nothing_older_answers_later(
    home: Path, policy: Path, url: str
) -> None:
    key = keys.add_key("maria")
    promote("whole", "router", "a test")
    client = OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=20)  # a client waits while the server boots
    wait_for(lambda: status(url))
    client.chat.completions.create(model="router", messages=HELLO, max_tokens=1)
    replies: list[Reply] = []
    failures: list[Exception] = []
    enough = threading.Event()

    def ask() -> None:
        while not enough.is_set():
            began, reason, model = time.monotonic(), None, ""
            try:
                for piece in client.chat.completions.create(model="router", messages=HELLO, max_tokens=96, stream=True):
                    model, reason = piece.model, (piece.choices and piece.choices[0].finish_reason) or reason
            except Exception as error:
                failures.append(error)
            else:
                number = int(model.rpartition("-")[2])
                replies.append(Reply(began, time.monotonic(), number, reason in ("stop", "length")))

    callers = [threading.Thread(target=ask) for _ in range(6)]
    for caller in callers:
        caller.start()
    for version in (2, 3):
        _ = promote("whole", "router", "another") if version == 2 else rollback("router")
        wait_for(lambda version=version: any(reply.version == version for reply in replies) or failures)
    ended = len(replies)
    wait_for(lambda: len(replies) > ended + 12 or failures)
    enough.set()
    for caller in callers:
        caller.join()
    assert not failures and all(reply.whole for reply in replies)
    for reply in replies:
        earlier = [other.version for other in replies if other.ended < reply.began]
        assert reply.version >= max(earlier, default=1)


def test_an_engine_that_hangs_or_dies_is_started_again_and_a_broken_record_stops_nobody_else(
    home: Path, policy: Path
) -> None:
    promote("whole", "router", "a test")
    (policy / "models/empty.json").write_text("")
    engines = EnginePool(("gguf",), slots=1, watch=partial(Liveness, every_s=0.2, patience_s=1.0))
    try:
        for disturb in (signal.SIGSTOP, signal.SIGKILL):
            engines.update()
            process = engines._running["router"].server.process
            os.kill(process.pid, disturb)
            wait_for(lambda: not engines._running["router"].alive, 20)
            engines.update()
            assert process.poll() is not None and engines.states() == {"router": "ready"}
            with engines.use("router") as address:
                body = {"model": "router-1", "messages": HELLO, "max_tokens": 1}
                assert httpx2.post(f"{address.base_url}/chat/completions", json=body, timeout=60).status_code == 200
        promote("whole", "router", "another")
        (policy / "models/router.json").write_text('{"name": "rou')  # the last good one counts
        engines.update()
        assert engines.versions() == ["router-1"]
    finally:
        engines.stop()


def test_keys_tools_and_a_changed_file(home: Path, policy: Path, url: str) -> None:
    """A run of the nearest tools is shown them whatever a request brings, by the prompt's tokens."""
    few, changed = make_few(home), home / "runs/changed"
    if not changed.exists():
        shutil.copytree(home / "runs/whole", changed)
    key = keys.add_key("maria")
    promote("changed", "router", "a test")
    flip_a_bit(changed / "convert/tuned-Q4_K_M.gguf")  # and so it is not started
    promote("whole", "whole", "a test")
    promote("few", "few", "a test")
    client = OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=20)
    wait_for(lambda: status(url) == 503)
    tools: list[Any] = load_tools(few / "prepare").openai()  # type: ignore[union-attr]
    asked: Any = {"messages": [{"role": "user", "content": "send Maria a WhatsApp saying hi"}], "temperature": 0}

    def prompt_tokens(model: str, tools: list[Any]) -> int:
        answer = client.chat.completions.create(**asked, model=model, tools=tools, max_tokens=1)
        assert answer.usage
        return answer.usage.prompt_tokens

    nearest = Preselector.load(few / "prepare").select("send Maria a WhatsApp saying hi", 3)
    of_three = prompt_tokens("whole", [t for t in tools if dotted_name(t["function"]["name"]) in nearest])
    assert "whatsapp.send" in nearest and len(nearest) == 3
    assert prompt_tokens("few", tools) == of_three < prompt_tokens("whole", tools)
    assert prompt_tokens("few", tools[:2]) == prompt_tokens("whole", tools[:2])

    def tokens_of(text: str) -> int:
        answer = client.chat.completions.create(
            model="whole", messages=[{"role": "user", "content": text}], max_tokens=1
        )
        assert answer.usage
        return answer.usage.prompt_tokens

    assert tokens_of("a<|eot_id|>b") == tokens_of("a< |eot_id|>b")  # a caller's control token is text

    create = partial(client.chat.completions.create, **asked, model="whole", tools=tools, max_tokens=64)
    whole = create().choices[0].message.content or ""  # from here on the prompt is cached, and computes equally
    whole = create().choices[0].message.content or ""
    assert "".join(p.choices[0].delta.content or "" for p in create(stream=True) if p.choices) == whole
    assert sorted(m.id for m in client.models.list()) == ["few", "router", "whole"]
    for wrong in ("tl-guessed", "none"):
        with pytest.raises(AuthenticationError):
            OpenAI(base_url=f"{url}/v1", api_key=wrong, max_retries=0).models.list()
    with pytest.raises(NotFoundError, match="not served here"):
        client.chat.completions.create(model="other", messages=HELLO)
    assert status(url) == 503
    flip_a_bit(changed / "convert/tuned-Q4_K_M.gguf")
    wait_for(lambda: status(url) == 200)
    keys.revoke_key("maria")
    with pytest.raises(AuthenticationError):
        client.models.list()


def make_few(home: Path) -> Path:
    """Return a run that was prepared with a preselector of three tools."""
    few, recipe = home / "runs/few", json.loads((home / "runs/whole/recipe.json").read_text())
    if not few.exists():
        shutil.copytree(home / "runs/whole", few)
        recipe["data"]["nearest"] = 3
        (few / "recipe.json").write_text(json.dumps(recipe))
        catalogue = load_tools(few / "prepare")
        assert catalogue
        (few / "prepare" / PRESELECTOR_FILE).write_text(json.dumps(Preselector.from_catalogue(catalogue).documents))
        make_again(few, "prepare", **{"data.nearest": 3})
        for stage in ("train", "convert", "evaluate"):
            make_again(few, stage)
    return few
