"""The gateway before real engines: keys, a boot that says so, streaming, tools, and a promotion while it runs."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AuthenticationError, NotFoundError, OpenAI

from tests.conftest import environment
from tuneline.configs.catalogue import dotted_name
from tuneline.configs.recipe import recipe_of
from tuneline.core.paths import ROOT
from tuneline.endpoints import keys
from tuneline.endpoints.promotion import promote, rollback
from tuneline.engines.server import free_port
from tuneline.stages.prepare.prepared_run import load_tools
from tuneline.stages.prepare.rendering.tool_preselector import PRESELECTOR_FILE, Preselector

SERVE = """
import os, sys, uvicorn
from tuneline.endpoints.engine_pool import EnginePool
from tuneline.endpoints.gateway import build_gateway
uvicorn.run(build_gateway(EnginePool(("gguf",))), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


@pytest.fixture
def policy(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in environment(home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    return tmp_path / "policy"


@pytest.fixture
def url(policy: Path) -> Iterator[str]:
    port = free_port("127.0.0.1")
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(port)], cwd=ROOT, env=dict(os.environ))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def until(url: str, status: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health").status_code == status:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"/health did not become {status}")


def test_the_gateway(home: Path, policy: Path, url: str) -> None:
    key = keys.add_key("maria")
    promote("whole", "router", "a test")
    tools = load_tools(home / "runs/whole/prepare").openai()  # type: ignore[union-attr]
    asked = [{"role": "user", "content": "send Maria a WhatsApp saying hi"}]
    client = OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=20)  # a client waits through 503 while it boots
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"{url}/v1/models")
            break
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    create: Any = partial(
        client.chat.completions.create, model="router", messages=asked, tools=tools, temperature=0, max_tokens=64
    )
    create()  # from here on the prompt is cached, and equal requests compute equally
    until(url, 200)
    whole = create().choices[0].message.content or ""
    said = "".join(p.choices[0].delta.content or "" for p in create(stream=True) if p.choices)
    assert said == whole
    assert [m.id for m in client.models.list()] == ["router"]

    for wrong in ("tl-guessed", "none"):
        with pytest.raises(AuthenticationError):
            OpenAI(base_url=f"{url}/v1", api_key=wrong, max_retries=0).models.list()
    with pytest.raises(NotFoundError, match="there are router"):
        client.chat.completions.create(model="other", messages=asked)  # type: ignore[arg-type]
    bad = httpx.post(f"{url}/v1/chat/completions", content=b"{", headers={"Authorization": f"Bearer {key}"})
    assert bad.status_code == 400
    keys.revoke_key("maria")
    with pytest.raises(AuthenticationError):
        client.models.list()


def test_a_promotion_changes_what_is_served_and_a_rollback_back(home: Path, policy: Path, url: str) -> None:
    key = keys.add_key("maria")
    other = home / "runs/other"
    if not other.exists():
        shutil.copytree(home / "runs/whole", other)
        recipe = recipe_of(other)
        assert recipe.serve.type == "Q4_K_M"
    promote("whole", "router", "a test")
    until(url, 200)
    promote("other", "router", "a test")
    asked = {"model": "router", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    headers = {"Authorization": f"Bearer {key}"}
    for version in (2, 3):
        deadline = time.monotonic() + 30
        while True:
            answer = httpx.post(f"{url}/v1/chat/completions", json=asked, headers=headers, timeout=60)
            assert answer.status_code == 200  # somebody serves all the while
            if json.loads(answer.text)["model"] == f"router-{version}":
                break
            assert time.monotonic() < deadline
            time.sleep(0.2)
        if version == 2:
            assert rollback("router").run == "whole"


def test_a_run_of_the_nearest_tools_is_shown_them_whatever_a_request_brings(home: Path, policy: Path, url: str) -> None:
    """Told by the tokens of the prompt, which the server counts."""
    few, recipe = home / "runs/few", json.loads((home / "runs/whole/recipe.json").read_text())
    if not few.exists():
        shutil.copytree(home / "runs/whole", few)
        recipe["data"]["nearest"] = 3
        (few / "recipe.json").write_text(json.dumps(recipe))
        catalogue = load_tools(few / "prepare")
        assert catalogue
        (few / "prepare" / PRESELECTOR_FILE).write_text(json.dumps(Preselector.from_catalogue(catalogue).documents))
    tools = load_tools(few / "prepare").openai()  # type: ignore[union-attr]
    key = keys.add_key("maria")
    promote("whole", "whole", "a test")
    promote("few", "few", "a test")
    until(url, 200)
    asked = {"messages": [{"role": "user", "content": "send Maria a WhatsApp saying hi"}], "max_tokens": 1}

    def prompt_tokens(model: str, tools: list[dict[str, Any]]) -> int:
        body = asked | {"model": model, "tools": tools}
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["usage"]["prompt_tokens"])

    nearest = Preselector.load(few / "prepare").select("send Maria a WhatsApp saying hi", 3)
    of_three = prompt_tokens("whole", [t for t in tools if dotted_name(t["function"]["name"]) in nearest])
    assert "whatsapp.send" in nearest and len(nearest) == 3
    assert prompt_tokens("few", tools) == of_three < prompt_tokens("whole", tools)
    assert prompt_tokens("few", tools[:2]) == prompt_tokens("whole", tools[:2])
    bad = {"model": "few", "tools": [{}] * 9, "messages": []}
    assert (
        httpx.post(f"{url}/v1/chat/completions", json=bad, headers={"Authorization": f"Bearer {key}"}).status_code
        == 400
    )
