"""Target `ollama` against a peer of Ollama's API."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import Fault, Peer, Request, Response, chat_answer, running
from tests.published_runs import make_published_run
from tuneline.core.errors import BadRequest, NotFound, StageFailed
from tuneline.publish.command import open_publication, plan_steps, publish_run, withdraw_run
from tuneline.publish.record import read_published

MODELFILE = '''FROM ./tuned-Q4_K_M.gguf
TEMPLATE """{{ range .Messages }}{{ .Content }}{{ end }}"""
PARAMETER num_ctx 2048
PARAMETER temperature 0
PARAMETER stop "<|eot_id|>"
PARAMETER stop "<|eom_id|>"
'''


class OllamaPeer(Peer):
    """https://docs.ollama.com/api: a blob's digest is checked, a model is made of blobs that are there."""

    key, version = None, "0.33.1"

    def __init__(self) -> None:
        super().__init__()
        self.blobs: set[str] = set()
        self.models: dict[str, dict[str, object]] = {}

    def answer(self, request: Request) -> Response:
        digest = request.path.removeprefix("/api/blobs/sha256:")
        match (request.method, request.path):
            case ("GET", "/api/version"):
                return Response({"version": self.version})
            case ("HEAD", _):
                return Response(status=200 if digest in self.blobs else 404)
            case ("POST", path) if path.startswith("/api/blobs/"):
                self.blobs |= {request.sha256}
                return Response(status=201 if request.sha256 == digest else 400)
            case ("POST", "/api/create"):
                files = request.json["files"].values()
                if not all(file.removeprefix("sha256:") in self.blobs for file in files):
                    return Response({"error": "no such blob"}, 400)
                self.models[request.json["model"]] = request.json
                return Response({"status": "success"})
            case ("DELETE", "/api/delete"):
                return Response(status=200 if self.models.pop(request.json["model"], None) else 404)
            case ("POST", "/v1/chat/completions") if request.json["model"] in self.models:
                return chat_answer(request)
        return Response({"error": "not found"}, 404)


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[OllamaPeer]:
    with running(OllamaPeer()) as peer:
        monkeypatch.setenv("OLLAMA_HOST", peer.url.removeprefix("http://"))
        assert isinstance(peer, OllamaPeer)
        yield peer


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is made of a base of a few bytes, which nobody else should find."""
    for name in ("RUNS", "MODELS", "CACHE"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / name.lower()))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_published_run(tmp_path / "runs/small", {"ollama": {}}, modelfile=MODELFILE)


def test_a_model_is_created_asked_and_deleted(run: Path, peer: OllamaPeer) -> None:
    publication = open_publication(run, "ollama")
    record = publish_run(publication, print)
    assert record.compared and (record.compared.prompts, record.compared.same) == (40, 40)
    (model,) = peer.models.values()
    assert model["parameters"] == {"num_ctx": 2048, "temperature": 0, "stop": ["<|eot_id|>", "<|eom_id|>"]}
    assert "{{ .Content }}" in str(model["template"])
    withdraw_run(publication, print)
    assert not peer.models and read_published(run).targets["ollama"].state == "withdrawn"


def test_a_file_that_is_there_is_not_sent_again(run: Path, peer: OllamaPeer) -> None:
    publication = open_publication(run, "ollama")
    publish_run(publication, print)
    withdraw_run(publication, print)
    peer.requests.clear()
    publish_run(publication, print)
    assert [call.partition(":")[0] for call in peer.calls()[1:3]] == ["HEAD /api/blobs/sha256", "POST /api/create"]


def test_an_upload_that_breaks_is_an_error_and_continues(run: Path, peer: OllamaPeer) -> None:
    peer.faults = [Fault("POST /api/blobs", breaks_after=1)]
    publication = open_publication(run, "ollama")
    with pytest.raises(StageFailed, match="Ollama: the connection broke .* run the same command again"):
        publish_run(publication, print)
    publish_run(publication, print)
    assert peer.models


def test_answers_that_differ_are_an_error_and_recorded(run: Path, peer: OllamaPeer) -> None:
    peer.faults = [Fault("POST /v1/chat", 200, body=chat_answer(_said("something else")).json) for _ in range(5)]
    with pytest.raises(StageFailed, match="only 35 of 40 answers are those of tuned-Q4_K_M, 36 are required"):
        publish_run(open_publication(run, "ollama"), print)
    compared = read_published(run).targets["ollama"].compared
    assert compared and compared.same == 35 and len(compared.different) == 5


def test_an_unexpected_answer_is_named(run: Path, peer: OllamaPeer) -> None:
    peer.faults = [Fault("POST /api/create", 200, body={"status": "pulling manifest"})]
    with pytest.raises(StageFailed, match="Ollama: unexpected answer to create"):
        publish_run(open_publication(run, "ollama"), print)


def test_a_template_that_ollama_cannot_say_is_the_ggufs_own_in_a_version_that_reads_it(
    tmp_path: Path, peer: OllamaPeer
) -> None:
    own = "# why\nFROM ./tuned-Q4_K_M.gguf\nREQUIRES 0.30.0\nPARAMETER num_ctx 2048\n"
    run = make_published_run(tmp_path / "runs/other", {"ollama": {}}, modelfile=own)
    peer.version = "0.29.4"
    with pytest.raises(BadRequest, match="Ollama 0.29.4: .* install 0.30.0 or later"):
        publish_run(open_publication(run, "ollama"), print)
    assert not peer.blobs
    peer.version = "0.30.0"
    publish_run(open_publication(run, "ollama"), print)
    (model,) = peer.models.values()
    assert "template" not in model


def test_a_run_without_a_modelfile_is_refused_before_anything_is_sent(tmp_path: Path, peer: OllamaPeer) -> None:
    run = make_published_run(tmp_path / "runs/other", {"ollama": {}})
    with pytest.raises(NotFound, match="tuned-Q4_K_M.Modelfile: was not made"):
        plan_steps(open_publication(run, "ollama"))
    assert not peer.requests


def test_no_server_is_named_with_the_way_out(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    monkeypatch.setattr("tuneline.publish.http_api.time.sleep", lambda _: None)
    with pytest.raises((StageFailed, BadRequest), match="Ollama: nothing answers at http://127.0.0.1"):
        publish_run(open_publication(run, "ollama"), print)


def _said(text: str) -> Request:
    return Request("POST", "/", {}, {}, {"messages": [{"content": text}]}, b"", "", 0)
