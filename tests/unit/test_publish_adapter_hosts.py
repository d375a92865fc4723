"""Targets `together`, `groq` and `nebius` against peers of their APIs."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers import Fault, Peer, Request, Response, chat_answer, running
from tests.published_runs import make_published_run, make_recipe, point_to
from tests.runs import make_again
from tuneline.core.errors import BadRecipe, BadRequest, NotFound, StageFailed
from tuneline.publish.command import explain_cost, open_publication, plan_steps, publish_run, withdraw_run
from tuneline.publish.record import FILE, read_published
from tuneline.stages.early_checks import refuse_early

BASE = "meta-llama/Llama-3.1-8B-Instruct"
HUB_KEY = "hf_key-of-the-hub-1234567890"
PROJECT = "/v2/projects/proj"
SECTIONS: dict[str, dict[str, Any]] = {
    "together": {"together": {"project": "proj", "base": BASE}, "hub": {"repository": "you/demo"}},
    "groq": {"groq": {"tier": "enterprise", "base": "llama-3.1-8b-instant"}},
    "nebius": {"nebius": {"base": "meta-llama/Meta-Llama-3.1-8B-Instruct"}},
}


class TogetherPeer(Peer):
    """Version 2 of Together's API, as the types of its Python package say."""

    hardware = "1x_nvidia_h100_80gb_sxm"

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.imports: list[dict[str, Any]] = []

    def answer(self, request: Request) -> Response:
        path = request.path.removeprefix(PROJECT)
        match (request.method, path.strip("/").split("/")):
            case ("GET", ["v2", "supported-models"]):
                return Response({"data": [{"id": "ml_base", "name": BASE}]})
            case ("POST", ["models"]):
                name = f"team/{request.json['name']}"
                if any(model["name"] == name for model in self.models.values()):
                    return Response({"error": {"message": "name is taken"}}, 409)
                self.models["ml_1"] = request.json | {"id": "ml_1", "name": name}
                return Response(self.models["ml_1"])
            case ("GET", ["models"]):
                return Response({"data": list(self.models.values())})
            case ("POST", ["models", "uploads"]):
                self.imports.append(request.json)
                return Response({"id": "up_1", "status": "REMOTE_UPLOAD_STATUS_PENDING"})
            case ("GET", ["models", "uploads", "up_1"]):
                return Response({"status": "REMOTE_UPLOAD_STATUS_SUCCEEDED"})
            case ("POST", ["endpoints"]):
                self.endpoints["ep_1"] = {"id": "ep_1", "name": f"team/{request.json['name']}", "deployments": []}
                return Response(self.endpoints["ep_1"])
            case ("POST", ["endpoints", "ep_1", "deployments"]):
                if request.query.get("validateOnly") != "true":
                    self.endpoints["ep_1"]["deployments"].append(request.json)
                return Response({"id": "dep_1", "hardware": self.hardware})
            case ("GET", ["endpoints", "ep_1", "deployments", "dep_1"]):
                return Response({"status": {"state": "DEPLOYMENT_STATE_READY", "message": ""}})
            case ("PATCH", ["endpoints", "ep_1"]):
                self.endpoints["ep_1"] |= request.json
                return Response(self.endpoints["ep_1"])
            case ("DELETE", ["endpoints", *_]):
                self.endpoints = {}
                return Response({})
            case ("DELETE", ["models", name]):
                self.models.pop(name, None)
                return Response({})
            case ("POST", ["v1", "chat", "completions"]):
                return chat_answer(request)
        return Response({"error": {"message": "not found"}}, 404)


class ArchivePeer(Peer):
    """What Groq and Nebius have in common: a form with an archive becomes a file, and the file a model."""

    def __init__(self) -> None:
        super().__init__()
        self.archives: list[set[str]] = []
        self.models: dict[str, dict[str, Any]] = {}

    def keep(self, request: Request) -> Response:
        start = request.content.index(b"PK\x03\x04")
        with zipfile.ZipFile(io.BytesIO(request.content[start:])) as archive:
            self.archives.append(set(archive.namelist()))
        return Response({"id": "file_1"})


class GroqPeer(ArchivePeer):
    """https://console.groq.com/docs/api-reference: files, fine tunings."""

    def answer(self, request: Request) -> Response:
        match (request.method, request.path):
            case ("POST", "/openai/v1/files"):
                assert b'name="purpose"\r\n\r\nfine_tuning' in request.content
                return self.keep(request)
            case ("GET", "/v1/fine_tunings"):
                return Response({"object": "list", "data": list(self.models.values())})
            case ("POST", "/v1/fine_tunings"):
                assert request.json["input_file_id"] == "file_1" and request.json["type"] == "lora"
                self.models["ft_1"] = request.json | {"id": "ft_1", "fine_tuned_model": "llama/ft_1"}
                return Response({"id": "ft_1", "object": "object", "data": self.models["ft_1"]})
            case ("DELETE", "/v1/fine_tunings/ft_1"):
                self.models.clear()
                return Response({"id": "ft_1", "deleted": True})
            case ("DELETE", "/openai/v1/files/file_1"):
                return Response({"id": "file_1", "deleted": True})
            case ("POST", "/openai/v1/chat/completions") if request.json["model"] == "llama/ft_1":
                return chat_answer(request)
        return Response({"error": {"message": "not found"}}, 404)


class NebiusPeer(ArchivePeer):
    """https://docs.tokenfactory.nebius.com/api-reference: models, custom model archives."""

    def answer(self, request: Request) -> Response:
        match (request.method, request.path):
            case ("POST", "/v0/models/upload"):
                return self.keep(request)
            case ("GET", "/v0/models"):
                return Response({"data": list(self.models.values())})
            case ("POST", "/v0/models"):
                assert request.json["source"] == "file_1"
                name = f"{request.json['base_model']}-LoRa:{request.json['name']}-AbCd"
                self.models[name] = request.json | {"name": name, "status": "active", "created_at": 0}
                return Response(self.models[name] | {"status": "validating"})
            case ("GET", path) if path.removeprefix("/v0/models/") in self.models:
                return Response(self.models[path.removeprefix("/v0/models/")])
            case ("DELETE", path):
                self.models.pop(path.removeprefix("/v0/models/"), None)
                return Response({})
            case ("POST", "/v1/chat/completions") if request.json["model"] in self.models:
                return chat_answer(request)
        return Response({"detail": "not found"}, 404)


PEERS: dict[str, type[Peer]] = {"together": TogetherPeer, "groq": GroqPeer, "nebius": NebiusPeer}


@pytest.fixture(params=PEERS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def peer(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with running(PEERS[target]()) as peer:
        point_to(peer.url, target, tmp_path, monkeypatch, rules=[])
        monkeypatch.setenv("HF_TOKEN", HUB_KEY)
        monkeypatch.setattr("tuneline.publish.http_api.POLL_EVERY_S", 0.01)
        yield peer


@pytest.fixture
def run(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RUNS", "MODELS", "CACHE"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / name.lower()))
    return make_published_run(tmp_path / "runs/small", SECTIONS[target])


def test_an_adapter_becomes_a_model_that_is_taken_back(run: Path, target: str, peer: Any) -> None:
    record = publish_run(open_publication(run, target), print)
    assert len(peer.models) == 1 and record.values["model"].startswith("small-")
    if target != "together":  # it answers on a deployment alone
        assert peer.archives == [{"adapter_config.json", "adapter_model.safetensors"}]
        assert record.compared and (record.compared.same, record.compared.required) == (40, 28)
    withdraw_run(open_publication(run, target), print)
    assert not peer.models and read_published(run).targets[target].state == "withdrawn"


def test_the_same_weights_twice_are_one(run: Path, target: str, peer: Any) -> None:
    publish_run(open_publication(run, target), print)
    (run / FILE).unlink()  # what a second machine knows
    peer.requests.clear()
    publish_run(open_publication(run, target), print)
    assert len(peer.models) == 1
    assert not [request for request in peer.requests if b"PK\x03\x04" in request.content]


def test_a_wrong_key_is_never_shown(run: Path, target: str, peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"{target.upper()}_API_KEY"
    monkeypatch.setenv(variable, "wrong-key-1234567890")
    with pytest.raises(BadRequest, match=rf"the key in {variable} was refused \(401\)") as refused:
        publish_run(open_publication(run, target), print)
    assert "wrong-key" not in str(refused.value) + (run / FILE).read_text()


def test_refused_for_now_is_waited_for_and_no_quota_is_not(
    run: Path, target: str, peer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("tuneline.publish.http_api.time.sleep", waits.append)
    peer.faults = [
        Fault("(GET|POST) /", 429, {"Retry-After": "9"}),
        Fault("(GET|POST) /", 402, body={"error": "paid up"}),
    ]
    with pytest.raises(StageFailed, match=r"no quota \(402\): paid up"):
        publish_run(open_publication(run, target), print)
    assert waits == [9.0]


def test_a_connection_that_breaks_is_named_and_continued(
    run: Path, target: str, peer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuneline.publish.http_api.time.sleep", lambda _: None)
    peer.faults = [Fault("POST /", breaks_after=1)]
    with pytest.raises(StageFailed, match="the connection broke .*; run the same command again"):
        publish_run(open_publication(run, target), print)
    publish_run(open_publication(run, target), print)
    assert len(peer.models) == 1


def test_an_unexpected_answer_is_named(run: Path, target: str, peer: Any) -> None:
    peer.faults = [Fault("GET /", 200, body=["what is this"])]
    with pytest.raises(StageFailed, match="unexpected answer: no list `data`.*docs/publish.md"):
        publish_run(open_publication(run, target), print)


@pytest.mark.parametrize("target", ["nebius"])
def test_answers_of_an_evaluation_of_other_files_are_not_compared(run: Path, target: str, peer: Any) -> None:
    lines: list[str] = []
    (run / "train/adapter/adapter_model.safetensors").write_text("other weights")
    make_again(run, "train")
    record = publish_run(open_publication(run, target), lines.append)
    assert "its evaluation is of other files" in lines[0]
    assert record.compared and record.compared.reason == "the evaluation is of other files than are there now"
    assert not [call for call in peer.calls() if call.endswith("/chat/completions")]


@pytest.mark.parametrize("target", ["together"])
def test_together_fetches_from_the_hub_by_a_key_that_is_not_recorded(run: Path, target: str, peer: Any) -> None:
    steps = plan_steps(open_publication(run, target))
    assert "$HF_TOKEN" in str(steps[-1].body) and HUB_KEY not in str(steps)
    publish_run(open_publication(run, target), print)
    assert peer.imports == [{"modelId": "ml_1", "remoteUrl": "https://huggingface.co/you/demo", "token": HUB_KEY}]
    assert HUB_KEY not in (run / FILE).read_text()


@pytest.mark.parametrize("target", ["together"])
def test_together_deploys_within_the_stated_bound(run: Path, target: str, peer: Any) -> None:
    publication = open_publication(run, target, ["publish.together.deployment={gpu: H100}"])
    assert "1 × H100 cost at most 3.99 USD per hour" in explain_cost(publication)
    peer.hardware = "8x_nvidia_h100_80gb_sxm"
    with pytest.raises(BadRequest, match="it would take 8x_nvidia_h100_80gb_sxm, not at most 1 × H100"):
        publish_run(publication, print, may_spend=True)
    assert not peer.endpoints["ep_1"]["deployments"]
    peer.hardware = "1x_nvidia_h100_80gb_sxm"
    record = publish_run(publication, print, may_spend=True)
    assert record.compared and record.compared.same == 40
    assert peer.endpoints["ep_1"]["trafficSplit"] == [{"deploymentId": "dep_1", "weight": 1}]
    withdraw_run(publication, print)
    assert not peer.endpoints and not peer.models


@pytest.mark.parametrize("target", ["together"])
def test_a_base_that_together_does_not_serve_is_named(run: Path, target: str, peer: Any) -> None:
    with pytest.raises(NotFound, match="publish.together.base: you/other: Together AI does not serve it"):
        publish_run(open_publication(run, target, ["publish.together.base=you/other"]), print)


def test_groq_says_before_training_that_it_is_for_enterprise_accounts(tmp_path: Path) -> None:
    recipe = make_recipe({"groq": {}}).model_copy(update={"base": BASE})
    with pytest.raises(BadRecipe, match=r"publish.groq.tier: other: Groq takes only enterprise; .* takes no GGUF"):
        refuse_early(recipe)


def test_nebius_says_before_training_that_it_does_not_serve_whole_embeddings(tmp_path: Path) -> None:
    recipe = make_recipe({"nebius": {}}).model_copy(update={"base": BASE})
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"modules_to_save": ("embeddings",)})})
    with pytest.raises(BadRecipe, match="train.modules_to_save: embeddings: Nebius Token Factory takes none"):
        refuse_early(recipe)
