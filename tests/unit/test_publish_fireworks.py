"""Target `fireworks` against a peer of its API: models, upload addresses, validation, deployments."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import KEY, Fault, Peer, Request, Response, chat_answer, running
from tests.published_runs import make_published_run, make_recipe, point_to
from tuneline.core.errors import BadRecipe, BadRequest, StageFailed
from tuneline.publish.command import explain_cost, open_publication, plan_steps, publish_run, withdraw_run
from tuneline.publish.record import FILE, read_published
from tuneline.stages.early_checks import refuse_early

ROOT = "/v1/accounts/you"
SETTINGS = {"account": "you", "base": "accounts/fireworks/models/llama-v3p1-8b-instruct"}
DEPLOYMENT = {"gpu": "NVIDIA_H100_80GB", "usd_per_gpu_hour": 4}


class FireworksPeer(Peer):
    """https://docs.fireworks.ai/api-reference, and the types of its Python package."""

    hardware = ("NVIDIA_H100_80GB", 1)

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, dict[str, object]] = {}
        self.files: dict[str, str] = {}
        self.deployments: set[str] = set()

    def needs_key(self, path: str) -> bool:
        return not path.startswith("/signed/")

    def answer(self, request: Request) -> Response:
        path = request.path.removeprefix(ROOT)
        name = path.rpartition("/")[2].partition(":")[0]
        match (request.method, path.partition("/signed")[0] and path):
            case ("POST", "/models"):
                is_new = request.json["modelId"] not in self.models
                self.models.setdefault(request.json["modelId"], request.json["model"] | {"state": "UPLOADING"})
                return Response({"name": request.json["modelId"]}, 200 if is_new else 409)
            case ("POST", str(path)) if path.endswith(":getUploadEndpoint"):
                names = request.json["filenameToSize"]
                urls = {file: f"{self.url}/signed/{file}?X-Goog-Signature=s3cr3t" for file in names}
                return Response({"filenameToSignedUrls": urls})
            case ("POST", str(path)) if path.endswith(":validateUpload"):
                self.models[name]["state"] = "READY"
                return Response({})
            case ("GET", str(path)) if name in self.models and path.startswith("/models/"):
                return Response(self.models[name])
            case ("POST", "/deployments"):
                kind, count = self.hardware
                if request.query.get("validateOnly") != "true":
                    self.deployments.add(request.query["deploymentId"])
                return Response({"acceleratorType": kind, "acceleratorCount": count, "state": "CREATING"})
            case ("GET", _) if name in self.deployments:
                return Response({"state": "READY"})
            case ("DELETE", _):
                self.models.pop(name, None)
                self.deployments.discard(name)
                return Response({})
        if request.method == "PUT":
            assert "authorization" not in request.headers, "an upload address never gets the key"
            assert request.headers["x-goog-content-length-range"] == f"{request.bytes},{request.bytes}"
            self.files[request.path.removeprefix("/signed/")] = request.sha256
            return Response({})
        if request.path == "/inference/v1/chat/completions":
            return chat_answer(request)
        return Response({"message": "no such path"}, 404)


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FireworksPeer]:
    peer = FireworksPeer()
    with running(peer):
        point_to(peer.url, "fireworks", tmp_path, monkeypatch)
        monkeypatch.setattr("tuneline.publish.http_api.POLL_EVERY_S", 0.01)
        yield peer


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RUNS", "MODELS", "CACHE"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / name.lower()))
    return make_published_run(tmp_path / "runs/small", {"fireworks": SETTINGS})


def test_an_adapter_is_uploaded_and_without_a_deployment_costs_nothing(run: Path, peer: FireworksPeer) -> None:
    publication = open_publication(run, "fireworks")
    assert explain_cost(publication) == ""
    record = publish_run(publication, print)
    ((name, model),) = peer.models.items()
    assert model["kind"] == "HF_PEFT_ADDON" and model["public"] is False and model["state"] == "READY"
    assert model["peftDetails"] == {"baseModel": SETTINGS["base"], "r": 8, "targetModules": []}
    assert set(peer.files) == {"adapter_config.json", "adapter_model.safetensors"}
    assert record.compared and record.compared.reason == "nothing answers there"
    withdraw_run(publication, print)
    assert name not in peer.models


def test_a_deployment_says_what_it_costs_is_asked_and_ended(run: Path, peer: FireworksPeer) -> None:
    publication = open_publication(run, "fireworks", [f"publish.fireworks.deployment={DEPLOYMENT}"])
    with pytest.raises(BadRequest, match="1 × NVIDIA_H100_80GB cost at most 4.00 USD per hour, 96.00 per day.*--yes"):
        publish_run(publication, print)
    assert not peer.requests
    record = publish_run(publication, print, may_spend=True)
    assert record.compared and record.compared.same == 40 and record.compared.required == 28
    (chat,) = {request.json["model"] for request in peer.requests if request.path.endswith("/chat/completions")}
    assert "#accounts/you/deployments/" in chat
    withdraw_run(publication, print)
    assert not peer.deployments and not peer.models


def test_more_hardware_than_was_stated_is_never_started(run: Path, peer: FireworksPeer) -> None:
    peer.hardware = ("NVIDIA_H100_80GB", 8)
    publication = open_publication(run, "fireworks", [f"publish.fireworks.deployment={DEPLOYMENT}"])
    with pytest.raises(BadRequest, match="it would take 8 × NVIDIA_H100_80GB, not at most 1"):
        publish_run(publication, print, may_spend=True)
    assert not peer.deployments


def test_no_key_no_request_and_a_wrong_key_is_never_shown(
    run: Path, peer: FireworksPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FIREWORKS_API_KEY")
    with pytest.raises(BadRequest, match="FIREWORKS_API_KEY is not set"):
        publish_run(open_publication(run, "fireworks"), print)
    assert not peer.requests
    monkeypatch.setenv("FIREWORKS_API_KEY", "wrong-key-1234567890")
    with pytest.raises(BadRequest, match=r"the key in FIREWORKS_API_KEY was refused \(401\)") as refused:
        publish_run(open_publication(run, "fireworks"), print)
    assert "wrong-key" not in str(refused.value) + (run / FILE).read_text()


def test_a_key_that_an_answer_repeats_is_masked(run: Path, peer: FireworksPeer) -> None:
    peer.faults = [Fault("POST /v1", 400, body={"error": {"message": f"bad request with {KEY}"}})]
    with pytest.raises(BadRequest, match=r"bad request with \*\*\*"):
        publish_run(open_publication(run, "fireworks"), print)


def test_no_quota_is_named(run: Path, peer: FireworksPeer) -> None:
    peer.faults = [Fault("POST /v1", 412, body={"error": "monthly usage exceeded"})]
    with pytest.raises(StageFailed, match=r"no quota \(412\): monthly usage exceeded"):
        publish_run(open_publication(run, "fireworks"), print)


def test_too_many_requests_are_waited_for_as_long_as_the_host_says(
    run: Path, peer: FireworksPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("tuneline.publish.http_api.time.sleep", waits.append)
    peer.faults = [Fault("POST .*/models$", 429, {"Retry-After": "7"}), Fault("POST .*/models$", 503)]
    publish_run(open_publication(run, "fireworks"), print)
    assert waits[:2] == [7.0, 1.0]
    withdraw_run(open_publication(run, "fireworks"), print)
    peer.faults = [Fault("POST .*:validateUpload", 429, {"Retry-After": "3600"}, body={})]
    with pytest.raises(StageFailed, match="asks to wait 3600 s"):
        publish_run(open_publication(run, "fireworks"), print)


def test_an_upload_that_breaks_continues_with_the_file_it_broke_in(
    run: Path, peer: FireworksPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuneline.publish.http_api.time.sleep", lambda _: None)
    peer.faults = [Fault("PUT /signed/adapter_model", breaks_after=1) for _ in range(5)]
    with pytest.raises(StageFailed, match="Fireworks AI: the connection broke"):
        publish_run(open_publication(run, "fireworks"), print)
    peer.requests.clear()
    publish_run(open_publication(run, "fireworks"), print)
    assert [call for call in peer.calls() if call.startswith("PUT")] == ["PUT /signed/adapter_model.safetensors"]


def test_an_unexpected_answer_is_named_and_upload_addresses_are_in_no_record(run: Path, peer: FireworksPeer) -> None:
    peer.faults = [Fault("POST .*:getUploadEndpoint", 200, body={"urls": []})]
    with pytest.raises(StageFailed, match="unexpected answer: no filenameToSignedUrls.adapter_config.json"):
        publish_run(open_publication(run, "fireworks"), print)
    publish_run(open_publication(run, "fireworks"), print)
    assert "s3cr3t" not in (run / FILE).read_text()


def test_other_weights_are_published_after_the_first_are_taken_back(run: Path, peer: FireworksPeer) -> None:
    publish_run(open_publication(run, "fireworks"), print)
    with pytest.raises(
        BadRequest, match="is published to fireworks, of other weights or by another name; take it back first"
    ):
        publish_run(open_publication(run, "fireworks", ["publish.fireworks.model=renamed"]), print)
    assert read_published(run).targets["fireworks"].values["model"].startswith("small-")


def test_a_rank_that_fireworks_does_not_take_is_refused_before_training(tmp_path: Path) -> None:
    recipe = make_recipe({"fireworks": SETTINGS})
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"rank": 128})})
    with pytest.raises(BadRecipe, match=r"train.rank: 128: Fireworks AI takes at least 4 and at most 64.*2026-11-30"):
        refuse_early(recipe)


def test_a_dry_run_shows_every_request_and_no_key(run: Path, peer: FireworksPeer) -> None:
    steps = plan_steps(open_publication(run, "fireworks", [f"publish.fireworks.deployment={DEPLOYMENT}"]))
    assert [step.shows.split()[0] for step in steps] == ["POST"] * 6 and not peer.requests
    assert KEY not in str([(step.shows, step.body) for step in steps])
