"""`tuneline chat` in a terminal, against a server that knows nothing of us."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.line.test_llama_server import TINY, write_gguf
from tuneline.core.paths import ROOT
from tuneline.engines.llama_cpp.llama_server import start_llama_server

QUESTION = "Send Maria a WhatsApp saying the keys are ready"
DEADLINE_S = 60


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "scratch").mkdir()
    write_gguf(TINY, folder / "tiny.gguf")
    with start_llama_server(
        folder / "tiny.gguf", alias="tiny", log=folder / "log", context=2048, threads=1, api_key="s3cret-of-chat"
    ) as server:
        yield server.base_url


class Terminal:
    """A command in a pseudo terminal: what it shows, and what is typed."""

    def __init__(self, words: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.master, slave = pty.openpty()
        self.shown = ""
        environment = os.environ | {"TUNELINE_CACHE": str(folder / "cache"), "TERM": "xterm"} | environment
        command = [sys.executable, "-m", "tuneline", *words]
        self.process = subprocess.Popen(command, cwd=folder, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)

    def wait_for(self, text: str) -> None:
        until = time.monotonic() + DEADLINE_S
        while text not in self.shown:
            assert time.monotonic() < until, self.shown.split()
            if select.select([self.master], [], [], 1)[0]:
                piece = os.read(self.master, 65536).decode("utf-8", "replace")
                self.shown += piece
                if "\x1b[6n" in piece:  # where is the cursor? a terminal answers
                    os.write(self.master, b"\x1b[1;1R")

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())


def test_a_conversation_in_a_terminal(url: str, tmp_path: Path) -> None:
    (tmp_path / "tools.yaml").write_bytes((ROOT / "configs/tools/handlers.yaml").read_bytes())
    words = ["chat", url, "--catalogue", "tools.yaml", "--system", "You route.", "--key-variable", "MY_KEY"]
    words += ["--max-tokens", "40"]
    terminal = Terminal(words, tmp_path, {"MY_KEY": "s3cret-of-chat", "TUNELINE_API_KEY": ""})
    terminal.wait_for("/exit or Ctrl-D leaves")
    terminal.wait_for("you")
    terminal.type(QUESTION + "x\x7f\r")
    terminal.wait_for("model ")
    terminal.type("/save said.jsonl\r")
    terminal.wait_for("tuneline validate said.jsonl")
    terminal.type("/nonsense\r")
    terminal.wait_for("not a command")
    terminal.type("/reset\r")
    terminal.type("/save empty.jsonl\r")
    terminal.wait_for("nothing was answered yet")
    terminal.type("/exit\r")
    assert terminal.process.wait(DEADLINE_S) == 0
    row = json.loads((tmp_path / "said.jsonl").read_text())
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
    assert [message["content"] for message in row["messages"][:2]] == ["You route.", QUESTION] and row["tools"]
    assert not (tmp_path / "empty.jsonl").exists()
    history = tmp_path / "cache/chat_history"
    assert QUESTION in history.read_text() and history.stat().st_mode & 0o777 == 0o600
    assert "s3cret-of-chat" not in terminal.shown


def test_without_its_key_the_message_names_the_variable(url: str, tmp_path: Path) -> None:
    environment = os.environ | {"TUNELINE_API_KEY": ""}
    command = [sys.executable, "-m", "tuneline", "chat", url, "hello", "--key-variable", "MY_KEY"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2 and "export MY_KEY=" in ended.stderr
