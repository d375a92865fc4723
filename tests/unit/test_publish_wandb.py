"""Target `wandb`: the real package makes the artifact, which a stand-in for its service keeps; its chat is a peer."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.peers import Peer, Request, Response, chat_answer, running
from tests.published_runs import make_published_run, point_to
from tuneline.core.errors import BadRecipe, BadRequest, StageFailed
from tuneline.publish.command import open_publication, plan_steps, publish_run, withdraw_run
from tuneline.publish.record import FILE

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

    def finish(self) -> None:
        self.finished += 1

    def artifact(self, name: str, type: str) -> Any:
        return SimpleNamespace(delete=lambda delete_aliases: self.artifacts.pop(name))


class InferencePeer(Peer):
    """https://docs.wandb.ai/inference: OpenAI's chat API, with the project in a header."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    def answer(self, request: Request) -> Response:
        assert request.headers["openai-project"] == "team/tuneline"
        assert request.json["model"].removeprefix("wandb-artifact:///") in self._service.artifacts
        return chat_answer(request)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    service = Service()
    monkeypatch.setattr("wandb.init", service.init)
    monkeypatch.setattr("wandb.Api", lambda: service)
    with running(InferencePeer(service)) as peer:
        point_to(peer.url, "wandb", tmp_path, monkeypatch, chat=f"{peer.url}/v1")
        yield service


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RUNS", "MODELS", "CACHE"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / name.lower()))
    return make_published_run(tmp_path / "runs/small", SECTION)


def test_an_adapter_is_an_artifact_that_answers_and_is_deleted(run: Path, service: Service) -> None:
    record = publish_run(open_publication(run, "wandb"), print)
    (artifact,) = service.artifacts.values()
    assert (artifact.type, artifact.metadata) == ("lora", {"wandb.base_model": SECTION["wandb"]["base"]})
    assert set(artifact.manifest.entries) == {"adapter_config.json", "adapter_model.safetensors"}
    assert record.compared and record.compared.same == 40 and service.finished == 1
    withdraw_run(open_publication(run, "wandb"), print)
    assert not service.artifacts


def test_what_w_and_b_refuses_is_named_and_its_run_is_finished(run: Path, service: Service) -> None:
    service.fails = "storage limit of your plan reached"
    with pytest.raises(StageFailed, match="Weights & Biases: storage limit of your plan reached; run the same command"):
        publish_run(open_publication(run, "wandb"), print)
    assert service.finished == 1


def test_without_a_key_or_a_team_nothing_is_sent(run: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(BadRequest, match="WANDB_API_KEY is not set"):
        publish_run(open_publication(run, "wandb"), print)
    with pytest.raises(BadRecipe, match="publish.wandb.team: required"):
        plan_steps(open_publication(run, "wandb", ["publish.wandb.team="]))
    assert not service.artifacts and (run / FILE).exists()
