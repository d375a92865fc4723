"""The five commands of docs/assistant.md, from an API's description to an assistant that calls it."""

import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import environment
from tests.scripted_model import results, serve_script
from tuneline.core.paths import ROOT


def commands() -> list[str]:
    text = (ROOT / "docs/assistant.md").read_text(encoding="utf-8")
    block = re.search(r"```sh\n(.*?)```", text, re.S)
    assert block
    return block[1].strip().splitlines()


def free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


def script(request: Any) -> Any:
    """A model that asks for the pet of the question's number, and says what it is told."""
    if got := results(request):
        return f"The pet is {got[-1]}"
    number = int(re.findall(r"\d+", request["messages"][-1]["content"])[-1])
    return [("getPet", {"petId": number})]


def test_the_five_commands_lead_to_an_assistant_that_calls_the_api(tmp_path: Path) -> None:
    port, lines = free_port(), commands()
    assert len(lines) == 5
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    variables = environment(tmp_path)

    def prepare(line: str, url: str) -> tuple[list[str], dict[str, str]]:
        line = line.replace("9000", str(port)).replace("http://127.0.0.1:8080/v1", url).removesuffix(" &")
        words = shlex.split(line)
        given = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
        words = words[len(given) :]
        assert words[0] == "tuneline"
        return [sys.executable, "-m", *words], variables | given

    def run(line: str, url: str) -> subprocess.CompletedProcess[str]:
        command, env = prepare(line, url)
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done

    with serve_script(script) as model:
        run(lines[0], model.url)
        assert "0 errors" in run(lines[1], model.url).stdout
        command, env = prepare(lines[2], model.url)
        with subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as mock:
            try:
                wait_for(port, mock)
                asked = run(lines[3], model.url)
            finally:
                mock.terminate()
        assert '"id":7' in asked.stdout and "getPet" in asked.stdout
        [identity] = re.findall(r"trace (\S+)", asked.stderr)
        shown = run(lines[4].replace("ID", identity), model.url).stdout
        assert "getPet({'petId': 7})" in shown and "2 rounds" in shown


def wait_for(port: int, process: subprocess.Popen[Any]) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            probe.settimeout(0.1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    pytest.fail("the mock does not answer")
