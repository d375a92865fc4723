"""Target `space`: the real huggingface_hub against a peer of its API, and the page itself with gradio."""

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.environments import DEPLOY
from tests.peers import KEY, Fault, Peer, Request, Response, running
from tests.published_runs import make_published_run
from tuneline.core.errors import BadRecipe, BadRequest, StageFailed
from tuneline.engines.server import free_port
from tuneline.publish.command import open_publication, plan_steps, publish_run, withdraw_run
from tuneline.publish.record import FILE, read_published

SPACE = {"space": {"repository": "you/chat", "url": "https://models.example/v1"}}
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script> **bold**"


class SpacesPeer(Peer):
    """https://huggingface.co/docs/hub/api: spaces, their variables, and commits."""

    def __init__(self) -> None:
        super().__init__()
        self.created: dict[str, Any] | None = None
        self.variables: dict[str, str] = {}
        self.files: dict[str, str] = {}

    def answer(self, request: Request) -> Response:
        match (request.method, request.path):
            case ("POST", "/api/repos/create"):
                if self.created:
                    return Response({"error": "You already created this space repo"}, 409)
                self.created = request.json
                return Response({"url": f"{self.url}/spaces/you/chat"})
            case ("GET", "/api/spaces/you/chat"):
                private = bool(self.created and self.created["visibility"] == "private")
                return Response({"id": "you/chat", "sha": "c" * 40, "private": private})
            case ("POST", "/api/spaces/you/chat/variables"):
                self.variables[request.json["key"]] = request.json["value"]
                return Response({name: {"value": value} for name, value in self.variables.items()})
            case ("POST", "/api/validate-yaml"):
                return Response({"errors": [], "warnings": []})
            case ("POST", "/api/spaces/you/chat/preupload/main"):
                modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                         for file in request.json["files"]]  # fmt: skip
                return Response({"files": modes})
            case ("POST", "/api/spaces/you/chat/commit/main"):
                for operation in map(json.loads, request.content.splitlines()):
                    if operation["key"] == "file":
                        self.files[operation["value"]["path"]] = operation["value"]["content"]
                url = f"{self.url}/spaces/you/chat/commit/{'c' * 40}"
                return Response({"success": True, "commitOid": "c" * 40, "commitUrl": url})
            case ("DELETE", "/api/repos/delete"):
                self.created = None
                return Response({})
        return Response({"error": f"no such path: {request.path}"}, 404)


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[SpacesPeer]:
    peer = SpacesPeer()
    with running(peer):
        monkeypatch.setenv("HF_ENDPOINT", peer.url)
        monkeypatch.setenv("HF_TOKEN", KEY)
        monkeypatch.setattr("time.sleep", lambda _: None)
        yield peer


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RUNS", "MODELS", "CACHE"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / name.lower()))
    return make_published_run(tmp_path / "runs/demo", SPACE)


def test_a_space_is_made_once_and_taken_back(run: Path, peer: SpacesPeer) -> None:
    publish_run(open_publication(run, "space"), print)
    assert peer.created and peer.created["sdk"] == "gradio" and peer.created["visibility"] == "private"
    assert peer.variables == {"MODEL_URL": "https://models.example/v1", "MODEL_NAME": "demo"}
    assert peer.files.keys() == {"README.md", "app.py", "requirements.txt"}
    lines: list[str] = []
    publish_run(open_publication(run, "space"), lines.append)
    assert all("done before" in line for line in lines), "the same upload twice is one"
    assert KEY not in (run / FILE).read_text()
    withdraw_run(open_publication(run, "space"), print)
    assert peer.created is None and read_published(run).targets["space"].state == "withdrawn"


def test_a_readme_is_what_the_hub_reads_and_a_dry_run_sends_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    bodies = {step.key: step.body for step in plan_steps(open_publication(run, "space"))}
    header = yaml.safe_load(bodies["commit"].partition("README.md:\n---\n")[2].partition("\n---")[0])
    assert (header["sdk"], header["app_file"]) == ("gradio", "app.py")
    with pytest.raises(BadRecipe, match=r"publish.space.url: required"):
        plan_steps(open_publication(run, "space", ["publish.space.url=null"]))
    with pytest.raises(BadRecipe, match="url"):
        open_publication(run, "space", ["publish.space.url=https://me:password@host/v1"])


def test_a_refused_key_and_a_public_space_are_said(
    run: Path, peer: SpacesPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(BadRequest, match="HF_TOKEN was refused"):
        publish_run(open_publication(run, "space"), print)
    monkeypatch.setenv("HF_TOKEN", KEY)
    peer.created = {"visibility": "public"}
    with pytest.raises(BadRequest, match=r"publish.space.private: True: you/chat is public"):
        publish_run(open_publication(run, "space"), print)
    peer.created = None
    peer.faults.append(Fault("POST /api/spaces/you/chat/commit/main", 500, body={"error": "down"}))
    with pytest.raises(StageFailed, match="500"):
        publish_run(open_publication(run, "space"), print)
    publish_run(open_publication(run, "space"), print)
    assert peer.files


def test_the_page_starts_asks_the_server_and_shows_text(tmp_path: Path) -> None:
    if DEPLOY not in os.environ:
        pytest.skip(f"{DEPLOY} does not name a Python with kubernetes-validate and gradio: make test-all")
    run_page(tmp_path, os.environ[DEPLOY])


def run_page(folder: Path, python: str) -> None:
    """Start app.py as a Space does, ask it by its API, and look at what its components are told."""
    from tests.unit.streaming_model import streaming

    page = Path(__file__).parents[2] / "publish/space_page/app.py"
    port = free_port("127.0.0.1")
    with streaming(HOSTILE) as (url, asked):
        environment = os.environ | {"MODEL_URL": url, "MODEL_NAME": "demo", "API_KEY": "secret-of-the-space"}
        environment |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
        with (folder / "page.log").open("wb") as log:
            process = subprocess.Popen([python, str(page)], env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            config = json.loads(get(f"http://127.0.0.1:{port}/config", process))
            [chatbot] = [part["props"] for part in config["components"] if part["type"] == "chatbot"]
            assert chatbot["render_markdown"] is False and chatbot["sanitize_html"] is True
            call = f"http://127.0.0.1:{port}/gradio_api/call/chat"
            request = urllib.request.Request(call, b'{"data": ["hello"]}', {"Content-Type": "application/json"})
            event = json.loads(urllib.request.urlopen(request, timeout=30).read())["event_id"]
            answer = urllib.request.urlopen(f"{call}/{event}", timeout=30).read().decode()
            assert json.loads(answer.rpartition("data: ")[2])[0] == HOSTILE, "as the model wrote it, as data"
            [(key, body)] = asked
            assert key == "Bearer secret-of-the-space" and body["model"] == "demo"
            assert "secret-of-the-space" not in json.dumps(config) + answer
        finally:
            process.terminate()
            process.wait(20)


def get(url: str, process: subprocess.Popen[bytes]) -> bytes:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        try:
            return bytes(urllib.request.urlopen(url, timeout=5).read())
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"{url} does not answer")
