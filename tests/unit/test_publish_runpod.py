"""Target `runpod` against a peer of its API v2 and of its job API."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers import KEY, Fault, Peer, Request, Response, chat_answer, running
from tests.published_runs import make_published_run, point_to
from tests.runs import MICRO, make_again
from tuneline.core.errors import BadRecipe, BadRequest, StageFailed
from tuneline.engines.vllm.vllm_server import EXECUTABLE
from tuneline.publish.command import explain_cost, open_publication, plan_steps, publish_run, withdraw_run
from tuneline.publish.containers import to_worker_variables
from tuneline.publish.record import FILE
from tuneline.rehearsal.image_builds.programs import PARSE_ARGUMENTS

SETTINGS = {"image": "runpod/worker-v1-vllm:v2.8.0", "usd_per_gpu_hour": 1.9, "form": "adapter"}
REQUIRED = {"name", "type", "scaling", "image"}
KNOWN = REQUIRED | {"gpu", "workers", "timeout", "env", "disk"}


class RunpodPeer(Peer):
    """https://docs.runpod.io/api-reference-v2 (openapi.json), and its job API."""

    def __init__(self) -> None:
        super().__init__()
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.jobs = 0
        self.states = ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]

    def answer(self, request: Request) -> Response:
        match (request.method, request.path):
            case ("GET", "/v2/serverless"):
                return Response({"endpoints": list(self.endpoints.values())})
            case ("POST", "/v2/serverless"):
                if not request.json.keys() >= REQUIRED or not request.json.keys() <= KNOWN:
                    return Response({"title": "Unprocessable", "status": 422, "detail": "additional properties"}, 422)
                identity = f"ep_{len(self.endpoints)}"
                self.endpoints[identity] = request.json | {"id": identity}
                return Response({"id": identity, "name": request.json["name"]}, 201)
            case ("DELETE", path):
                self.endpoints.pop(path.rpartition("/")[2], None)
                return Response({}, 204)
            case ("POST", "/v2/ep_0/run"):
                self.jobs += 1
                return Response({"id": "job", "status": "IN_QUEUE"})
            case ("GET", "/v2/ep_0/status/job"):
                return Response({"id": "job", "status": self.states.pop(0) if len(self.states) > 1 else self.states[0]})
            case ("POST", "/v2/ep_0/openai/v1/chat/completions"):
                return chat_answer(request)
        return Response({"title": "Not Found", "status": 404, "detail": "no such path"}, 404)


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunpodPeer]:
    peer = RunpodPeer()
    with running(peer):
        point_to(peer.url, "runpod", tmp_path, monkeypatch, chat=peer.url)
        monkeypatch.setattr("tuneline.publish.http_api.POLL_EVERY_S", 0.01)
        yield peer


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RUNS", "MODELS", "CACHE"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / name.lower()))
    return make_published_run(tmp_path / "runs/demo", {"hub": {"repository": "you/demo"}, "runpod": SETTINGS})


def test_an_endpoint_is_made_once_woken_asked_and_deleted(run: Path, peer: RunpodPeer) -> None:
    record = publish_run(open_publication(run, "runpod"), print, may_spend=True)
    [endpoint] = peer.endpoints.values()
    assert endpoint["env"]["HF_TOKEN"] == "{{ RUNPOD_SECRET_hf_token }}", "a secret by its name"
    assert endpoint["workers"] == {"min": 0, "max": 1, "idleTimeout": 30}
    assert record.compared and record.compared.same == record.compared.prompts == 40
    (run / FILE).unlink()  # as on another machine
    peer.states = ["COMPLETED"]
    publish_run(open_publication(run, "runpod"), print, may_spend=True)
    assert len(peer.endpoints) == 1, "the same publication twice is one"
    assert KEY not in (run / FILE).read_text()
    with pytest.raises(BadRequest, match="take it back first"):
        publish_run(open_publication(run, "runpod", ["publish.runpod.gpus=2"]), print, may_spend=True)
    withdraw_run(open_publication(run, "runpod"), print)
    assert not peer.endpoints


def test_what_it_costs_is_said_first(run: Path, peer: RunpodPeer) -> None:
    with pytest.raises(BadRequest, match=r"at most 1.90 USD per hour, 45.60 per day.*add --yes"):
        publish_run(open_publication(run, "runpod"), print)
    assert "11.40 USD per hour" in explain_cost(
        open_publication(run, "runpod", ["publish.runpod.workers=3", "publish.runpod.gpus=2"])
    )
    with pytest.raises(BadRequest, match="usd_per_gpu_hour: state the price"):
        explain_cost(open_publication(run, "runpod", ["publish.runpod.usd_per_gpu_hour=null"]))
    assert not peer.endpoints


def test_faults_are_said_and_nothing_is_made_twice(
    run: Path, peer: RunpodPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    publication = open_publication(run, "runpod")
    for fault, error, words in (
        (Fault("POST /v2/serverless", 402, body={"detail": "balance too low"}), StageFailed, "no quota"),
        (Fault("POST /v2/serverless", 201, body={"created": True}), StageFailed, "no id in"),
        (Fault("POST /v2/serverless", breaks_after=10), StageFailed, "the connection broke"),
        (Fault("GET /v2/serverless", 200, body=["x"]), StageFailed, "no list `endpoints`"),
    ):
        peer.faults.append(fault)
        with pytest.raises(error, match=words):
            publish_run(publication, print, may_spend=True)
    peer.faults.append(Fault("GET /v2/serverless", 429, {"Retry-After": "1"}))
    peer.states = ["FAILED"]
    with pytest.raises(StageFailed, match="the first job ended with FAILED"):
        publish_run(publication, print, may_spend=True)
    peer.states = ["COMPLETED"]
    publish_run(publication, print, may_spend=True)
    assert len(peer.endpoints) == 1
    monkeypatch.setenv("RUNPOD_API_KEY", "wrong")
    with pytest.raises(BadRequest, match="RUNPOD_API_KEY was refused"):
        withdraw_run(publication, print)


def test_what_the_worker_cannot_serve_is_refused(run: Path) -> None:
    with pytest.raises(BadRecipe, match=r"publish.runpod.image: required"):
        plan_steps(open_publication(run, "runpod", ["publish.runpod.image=null"]))
    with pytest.raises(BadRecipe, match=r"publish.hub.repository: required"):
        plan_steps(open_publication(run, "runpod", ["publish.hub.repository=null"]))
    (run / "prepare/chat_template.jinja").write_text("{{ messages }}")
    for stage in ("prepare", "train", "convert", "evaluate"):
        make_again(run, stage)
    with pytest.raises(BadRecipe, match="publish it merged"):
        plan_steps(open_publication(run, "runpod"))


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_the_workers_variables_are_vllms_arguments(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turned back as the worker does it, vLLM's own parser takes them."""
    for name in ("RUNS", "MODELS"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / name.lower()))
    merged = MICRO.convert.model_copy(update={"format": "safetensors"})
    publish = {"hub": {"repository": "you/demo"}, "runpod": SETTINGS | {"form": form, "secret": None}}
    run = make_published_run(tmp_path / "runs/demo", publish, convert=merged)
    [create, _] = plan_steps(open_publication(run, "runpod"))
    variables = create.body["env"]
    name = "demo" if form == "merged" else "demo-base"
    assert variables["OPENAI_SERVED_MODEL_NAME_OVERRIDE"] == name and "PORT" not in variables
    assert ("LORA_MODULES" in variables) == (form == "adapter") and "HF_TOKEN" not in variables
    arguments = [variables.pop("MODEL_NAME"), "--served-model-name", variables.pop("OPENAI_SERVED_MODEL_NAME_OVERRIDE")]
    for variable, value in variables.items():
        arguments += [f"--{variable.lower().replace('_', '-')}", *([] if value == "true" else [value])]
    assert to_worker_variables(["m", "--revision", "r", "--enable-lora"]) == {
        "MODEL_NAME": "m", "MODEL_REVISION": "r", "ENABLE_LORA": "true"
    }  # fmt: skip
    if EXECUTABLE in os.environ:
        import json

        command = [str(Path(os.environ[EXECUTABLE]).with_name("python")), "-c", PARSE_ARGUMENTS]
        request = json.dumps(["serve", *arguments])
        done = subprocess.run(command, input=request, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
