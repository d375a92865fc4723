"""README and docs: the commands that train, serve or simulate Modal, in the order of their page, on the tiny base."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import CACHE
from tests.doc_pages import LONG, OUTSIDE, PAGES, Command, read_commands
from tests.unit.test_docs import extend_small, write_data
from tuneline.cli import app
from tuneline.core.paths import ROOT
from tuneline.endpoints import keys
from tuneline.rehearsal.worker import can_make_namespaces

FIRST = {r"tuneline init\b": "makes the recipe of a later command"}
"""Short commands that are run here too."""
RECIPES = re.compile(r"tuneline (run|train|preflight)\b")
SMALL = ("--set", "base=tiny", "--set", "train.max_steps=1", "--set", "train.batch_rows=4")
"""Made of the recipes of the pages, whose bases are large; `micro.yaml` is small enough as it is."""
PORT = 8080


def is_long(command: Command) -> bool:
    return command.matches(LONG) and not command.matches(OUTSIDE)


LONG_PAGES = [page for page in PAGES if any(map(is_long, read_commands(page)))]


@pytest.fixture
def folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with data and a finished run `demo`, which is live as `router`."""
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "data", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("RUNS", "POLICY", "LOGS"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / f".{name.lower()}"))
    monkeypatch.setenv("TUNELINE_MODELS", str(home / "models"))
    monkeypatch.setenv("TUNELINE_CACHE", CACHE)
    write_data(tmp_path)
    for file in (tmp_path / "recipe.yaml", *tmp_path.glob("*-recipe.yaml")):
        file.unlink()  # `init` writes them
    for file in tmp_path.glob("my-*.yaml"):
        extend_small(file)
    shutil.copytree(home / "runs/whole", tmp_path / ".runs/demo", copy_function=os.link)
    invoke("promote", "demo", "--as", "router", "--override", "it learned for ten steps")
    [handlers] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/assistant.md").read_text(encoding="utf-8"), re.S)[:1]
    (tmp_path / "my_module.py").write_text(handlers)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", LONG_PAGES, ids=lambda page: page.stem)
def test_long_commands(folder: Path, page: Path) -> None:
    """A server stays up until the next one starts, or the page ends."""
    servers: list[subprocess.Popen[bytes]] = []
    environment = os.environ | {"PYTHONPATH": str(ROOT), "KEY": keys.add_key("reader")}
    try:
        for command in read_commands(page):
            if command.matches(FIRST) and not command.matches(OUTSIDE):
                invoke(*shlex.split(command.text)[1:])
            elif is_long(command):
                run(command.text, folder, environment, servers)
    finally:
        stop(servers)


def invoke(*words: str) -> None:
    done = CliRunner().invoke(app, words)
    assert getattr(done.exception, "exit_code", done.exit_code) == 0, (words, done.output, done.exception)


def run(text: str, folder: Path, environment: dict[str, str], servers: list[subprocess.Popen[bytes]]) -> None:
    words = ["demo" if word == "RUN" else word for word in shlex.split(text)]
    if words[0].startswith("TUNELINE_API_KEY="):
        environment = environment | {"TUNELINE_API_KEY": environment["KEY"]}
        words = words[1:]
    if RECIPES.match(text) and not any(word.endswith("micro.yaml") for word in words):
        words = [*("tiny" if word == "smollm2-135m-instruct" else word for word in words), *SMALL]
    if words[1] == "rehearse" and not can_make_namespaces():
        return
    command = [sys.executable, "-m", "tuneline", *words[1:]]
    place = ROOT if words[1] == "rehearse" else folder
    if words[1] in ("serve", "gateway"):
        stop(servers)
        servers.append(subprocess.Popen(command, cwd=place, env=environment))
        wait_for(PORT, servers[-1])
        return
    done = subprocess.run(
        command, cwd=place, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 3), (text, done.stdout[-2000:], done.stderr[-2000:])  # a gate may say no


def stop(servers: list[subprocess.Popen[bytes]]) -> None:
    while servers:
        server = servers.pop()
        server.send_signal(signal.SIGINT)
        server.wait(60)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
            time.sleep(0.1)
    raise AssertionError(f"nothing answers at port {port}")
