"""The examples of other agents on the gateway, each by its real package; `make test-all` makes their environment."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import tuneline
from tests.environments import CLIENTS
from tests.scripted_model import serve_script
from tests.unit.misbehaving import serving
from tuneline.core.paths import ROOT
from tuneline.endpoints import keys

EXAMPLES = {"crew": "crewai", "langchain_agent": "langchain_openai", "openai_agents": "agents"}


def script(request: Any) -> Any:
    """A model that looks the rate up with the tool it is given, and repeats what it knows of it."""
    told = [str(message.get("content")) for message in request["messages"]]
    if known := [text for text in told if "17650" in text]:
        return f"Thought: I now can give a great answer\nFinal Answer: 1 EUR is 17650 IDR ({len(known)})"
    return [(request["tools"][0]["function"]["name"], {"currency": "EUR"})] if request.get("tools") else "hello"


@pytest.mark.skipif(CLIENTS not in os.environ, reason="needs the environment of the clients: make test-all")
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_calls_its_tool_through_the_gateway(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = os.environ[CLIENTS]
    has_package = subprocess.run([python, "-c", f"import {EXAMPLES[name]}"], capture_output=True, check=False)
    if has_package.returncode:
        pytest.skip(f"{EXAMPLES[name]} is not in that environment")
    monkeypatch.setenv("TUNELINE_LOGS", str(tmp_path / "logs"))
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    key = keys.add_key("crew")
    with serve_script(script) as model:
        file = tmp_path / "gateway.yaml"
        file.write_text(yaml.safe_dump({"models": {"tuned": {"baseline": {"url": model.url, "model": "m"}}}}))
        with serving(file, with_keys=True) as (url, _):
            command = [python, str(ROOT / "examples" / f"{name}.py"), f"{url}/v1", key, "tuned"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "1 EUR is 17650 IDR" in done.stdout


def test_the_mock_handlers_have_every_tool_of_the_catalogue(tmp_path: Path) -> None:
    def once(request: Any) -> Any:
        last = request["messages"][-1]
        return last["content"] if last["role"] == "tool" else [("docs__create", {"title": "plan"})]

    with serve_script(once) as model:
        words = ["--handlers", str(ROOT / "examples" / "mock_handlers.py"), "--folder", str(tmp_path / "a")]
        words += ["--catalogue", str(ROOT / "configs/tools/business.yaml"), "--url", model.url, "--ask", "make a doc"]
        done = subprocess.run(
            [sys.executable, "-m", "tuneline", "assistant", *words, "--unconfirmed", "docs.create"],
            capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
        assert done.returncode == 0 and "done (mock)" in done.stdout, done.stderr
        assert len(model.requests[0]["tools"]) == 104
    assert tuneline(tmp_path, "assistant", "ls", "--folder", str(tmp_path / "a")).stdout.strip()
