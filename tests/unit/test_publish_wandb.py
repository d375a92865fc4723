"""Target `wandb`: the real package makes the artifact, which a stand-in for its upload keeps; API and chat are a peer.

Where the peer's answers are wrong, the package's own process meets them.
"""

import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.peers import Fault, Peer, Request, Response, chat_answer, running
from tests.published_runs import make_published_run, point_to
from tuneline.core.errors import BadRecipe, BadRequest, StageFailed
from tuneline.publish.command import open_publication, plan_steps, publish_run, withdraw_run
from tuneline.publish.record import FILE

KEY = "k" * 40
"""wandb sends none that is shorter."""
SECTION = {"wandb": {"team": "team", "base": "meta-llama/Llama-3.1-8B-Instruct"}}


class Service:
    """What W&B's own process does with an artifact, of which only the network is left out."""

    def __init__(self) -> None:
        self.artifacts: dict[str, Any] = {}
        self.finished = 0
        self.fails = ""

    def init(self, **_: Any) -> Any:
        return SimpleNamespace(log_artifact=self.log, finish=self.finish)

    def log(self, artifact: Any) -> Any:
        if self.fails:
            raise ValueError(self.fails)
        self.artifacts[f"team/tuneline/{artifact.name}:v0"] = artifact
        return SimpleNamespace(wait=lambda: SimpleNamespace(version="v0"))

    def finish(self, **_: Any) -> None:
        self.finished += 1

    def artifact(self, name: str, type: str) -> Any:
        return SimpleNamespace(delete=lambda delete_aliases: self.artifacts.pop(name))


class WandbPeer(Peer):
    """W&B's GraphQL, which tells whose the key is; OpenAI's chat API with the project in a header.

    https://docs.wandb.ai/inference, and what wandb 0.31 sends.
    """

    key = KEY

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    def needs_key(self, path: str) -> bool:
        return path != "/graphql"

    def answer(self, request: Request) -> Response:
        if request.path == "/graphql":
            basic = base64.b64encode(f"api:{self.key}".encode()).decode()
            if request.headers["authorization"] != f"Basic {basic}":
                return Response({"errors": [{"message": "user is not logged in"}]}, 401)
            return Response({"data": {"viewer": {"username": "you"}}})
        assert request.headers["openai-project"] == "team/tuneline"
        assert request.json["model"].removeprefix("wandb-artifact:///") in self._service.artifacts
        return chat_answer(request)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    monkeypatch.setattr("wandb.init", service.init)
    monkeypatch.setattr("wandb.Api", lambda overrides: service)
    return service


@pytest.fixture
def peer(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbPeer]:
    service = request.getfixturevalue("service") if "service" in request.fixturenames else Service()
    with running(WandbPeer(service)) as peer:
        point_to(peer.url, "wandb", tmp_path, monkeypatch, chat=f"{peer.url}/v1")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield peer  # type: ignore[misc]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RUNS", "MODELS", "CACHE"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / name.lower()))
    return make_published_run(tmp_path / "runs/small", SECTION)


def test_an_adapter_is_an_artifact_that_answers_and_is_deleted(run: Path, service: Service, peer: WandbPeer) -> None:
    record = publish_run(open_publication(run, "wandb"), print)
    (artifact,) = service.artifacts.values()
    assert (artifact.type, artifact.metadata) == ("lora", {"wandb.base_model": SECTION["wandb"]["base"]})
    assert set(artifact.manifest.entries) == {"adapter_config.json", "adapter_model.safetensors"}
    assert record.compared and record.compared.same == 40 and service.finished == 1
    withdraw_run(open_publication(run, "wandb"), print)
    assert not service.artifacts


def test_what_w_and_b_refuses_is_named_and_its_run_is_finished(run: Path, service: Service, peer: WandbPeer) -> None:
    service.fails = "storage limit of your plan reached"
    with pytest.raises(StageFailed, match="Weights & Biases: storage limit of your plan reached; run the same command"):
        publish_run(open_publication(run, "wandb"), print)
    assert service.finished == 1


def test_without_a_key_or_a_team_nothing_is_sent(
    run: Path, service: Service, peer: WandbPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(BadRequest, match="WANDB_API_KEY is not set"):
        publish_run(open_publication(run, "wandb"), print)
    with pytest.raises(BadRecipe, match="publish.wandb.team: required"):
        plan_steps(open_publication(run, "wandb", ["publish.wandb.team="]))
    assert not service.artifacts and not peer.requests and (run / FILE).exists()


def test_a_wrong_key_is_named_and_never_shown(
    run: Path, service: Service, peer: WandbPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "w" * 40
    monkeypatch.setenv("WANDB_API_KEY", wrong)
    with pytest.raises(BadRequest, match=r"the key in WANDB_API_KEY was refused \(401\)") as refused:
        publish_run(open_publication(run, "wandb"), print)
    assert wrong not in str(refused.value) + (run / FILE).read_text() and not service.artifacts
    peer.faults = [Fault("POST /graphql", 200, body={"data": {"viewer": None}})]
    with pytest.raises(BadRequest, match="the key in WANDB_API_KEY belongs to no account"):
        publish_run(open_publication(run, "wandb"), print)


def test_refused_for_now_is_waited_for(
    run: Path, service: Service, peer: WandbPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("tuneline.publish.http_api.time.sleep", waits.append)
    peer.faults = [Fault("POST /graphql", 429, {"Retry-After": "9"})]
    publish_run(open_publication(run, "wandb"), print)
    assert waits == [9.0] and len(service.artifacts) == 1
    peer.faults = [Fault("POST /graphql", 402, body={"error": "paid up"})]
    with pytest.raises(StageFailed, match=r"no quota \(402\): paid up"):
        withdraw_run(open_publication(run, "wandb"), print)


def test_a_connection_that_breaks_and_an_unexpected_answer_are_named_and_continued(
    run: Path, service: Service, peer: WandbPeer
) -> None:
    for fault, reason in (
        (Fault("POST /graphql", breaks_after=1), "the connection broke .*; run the same command again"),
        (Fault("POST /graphql", 200, body=["what is this"]), "unexpected answer: no data.viewer.username"),
    ):
        peer.faults = [fault]
        with pytest.raises(StageFailed, match=reason):
            publish_run(open_publication(run, "wandb"), print)
    publish_run(open_publication(run, "wandb"), print)
    assert len(service.artifacts) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("POST /graphql", 403, body={"errors": [{"message": "no rights in team"}]}), "no rights in team"),
        # The package's process begins a run with any JSON, and the next request ends that process.
        (Fault("POST /graphql", 200, body={"data": {"what": 1}}), ""),
    ],
)
def test_what_the_packages_own_process_is_answered_is_named(
    run: Path, peer: WandbPeer, monkeypatch: pytest.MonkeyPatch, fault: Fault, reason: str
) -> None:
    answer = peer.answer

    def answer_key_only(request: Request) -> Response:
        is_key_check = "query Viewer { viewer { username } }" in str(request.json)
        return answer(request) if is_key_check else Response(fault.body, fault.status)

    monkeypatch.setattr(peer, "answer", answer_key_only)
    words = [sys.executable, "-m", "tuneline", "publish", run.name, "--to", "wandb"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert re.search(f"Weights & Biases: .*{reason}.*; run the same command again", done.stderr.replace("\n", " "))
    assert any(request.headers["user-agent"].startswith("wandb-core") for request in peer.requests)
