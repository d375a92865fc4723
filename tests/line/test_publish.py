"""A finished run is published to a peer of Ollama that serves what it was sent: its answers are the evaluated ones."""

import json
import re
import subprocess
import threading
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import CACHE, environment
from tests.peers import Request, Response, running
from tests.unit.test_publish_files import make
from tests.unit.test_publish_ollama import OllamaPeer
from tuneline.engines.llama_cpp.build import find_llama_cpp
from tuneline.engines.llama_cpp.llama_server import start_llama_server
from tuneline.publish import comparison
from tuneline.publish.command import open_publication, publish_run, withdraw_run


class ServingPeer(OllamaPeer):
    """Keeps the files that it is sent, and answers with llama-server from them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        super().__init__()
        self.small = 1 << 40
        self._folder, self._stack, self._server, self._lock = folder, stack, "", threading.Lock()

    def answer(self, request: Request) -> Response:
        if request.path.startswith("/api/blobs/") and request.method == "POST":
            (self._folder / request.sha256).write_bytes(request.content)
        if request.path == "/v1/chat/completions":
            return self._ask(request)
        return super().answer(request)

    def _ask(self, request: Request) -> Response:
        with self._lock:
            self._server = self._server or self._start(request.json["model"])
        body = json.dumps(request.json).encode()
        sent = urllib.request.Request(f"{self._server}/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(sent, timeout=120) as answer:
            return Response(json.loads(answer.read()))

    def _start(self, model: str) -> str:
        (digest,) = self.models[model]["files"].values()  # type: ignore[attr-defined]
        file = (self._folder / digest.removeprefix("sha256:")).rename(self._folder / "published.gguf")
        log = self._folder / "server.log"
        return self._stack.enter_context(
            start_llama_server(file, context=2048, threads=2, slots=4, alias=model, log=log)
        ).base_url


def test_a_published_model_answers_as_the_evaluated_one(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(home).items():
        monkeypatch.setenv(name, value)
    # After ten steps many tokens are as likely as others: sums in another batch choose another one in up to 3 of 16.
    monkeypatch.setattr(comparison, "SAME_FILES", 0.75)
    lines: list[str] = []
    with ExitStack() as stack, running(ServingPeer(tmp_path, stack)) as peer:
        monkeypatch.setenv("OLLAMA_HOST", peer.url)
        publication = open_publication(home / "runs/whole", "ollama")
        compared = publish_run(publication, lines.append).compared
        assert compared and compared.prompts == 16 and compared.passed and compared.answers_of == "tuned-Q4_K_M"
        withdraw_run(publication, lines.append)
        assert isinstance(peer, ServingPeer) and not peer.models


def test_llama_server_knows_every_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNS", "MODELS"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv("TUNELINE_CACHE", CACHE)
    for target in ("kubernetes", "compose"):
        files = make(tmp_path / target, target, form="gguf")
        text = files["tuneline.yaml" if target == "kubernetes" else "compose.yaml"]
        flags = set(re.findall(r"^\s*- (--[a-z-]+)$", text, re.M)) - {"--fail", "--silent"}
        help_text = subprocess.run([str(find_llama_cpp().server), "--help"], capture_output=True, text=True, check=True)
        known = set(re.findall(r"--[a-z][a-z0-9-]+", help_text.stdout))
        assert len(flags) > 8 and flags <= known, flags - known
