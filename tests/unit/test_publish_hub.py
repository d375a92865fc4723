"""Target `hub`: the real huggingface_hub against a peer of the hub's API and its LFS storage in parts."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers import KEY, Fault, Peer, Request, Response, running
from tests.published_runs import make_published_run
from tests.runs import make_again
from tuneline.core.errors import BadRecipe, BadRequest, StageFailed
from tuneline.publish.command import open_publication, plan_steps, publish_run, withdraw_run
from tuneline.publish.hub import fetch_licences
from tuneline.publish.record import FILE, read_published

REPOSITORY = "you/demo"
PART = 1 << 20


class HubPeer(Peer):
    """https://huggingface.co/docs/hub/api, and git-lfs's batch API with multipart uploads."""

    def __init__(self) -> None:
        super().__init__()
        self.private: bool | None = None
        self.objects: set[str] = set()
        self.files: dict[str, str] = {}
        self.parts: dict[str, dict[int, bytes]] = {}

    def needs_key(self, path: str) -> bool:
        return not path.startswith(("/storage/", "/complete/"))  # these addresses are signed

    def answer(self, request: Request) -> Response:
        match (request.method, request.path):
            case ("POST", "/api/repos/create"):
                if self.private is not None:
                    return Response({"error": "You already created this model repo"}, 409)
                self.private = request.json["visibility"] == "private"
                return Response({"url": f"{self.url}/{REPOSITORY}"})
            case ("DELETE", "/api/repos/delete"):
                self.private, self.files = None, {}
                return Response({})
            case ("POST", "/api/validate-yaml"):
                return Response({"errors": [], "warnings": []})
            case ("POST", path) if "/preupload/" in path:
                modes = [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if f["path"].endswith((".gguf", ".safetensors")) else "regular",
                    }
                    for f in request.json["files"]
                ]
                return Response({"files": [mode | {"shouldIgnore": False, "oid": None} for mode in modes]})
            case ("POST", path) if path.endswith("/info/lfs/objects/batch"):
                objects = [self._upload_action(entry) for entry in request.json["objects"]]
                return Response({"transfer": "multipart", "objects": objects})
            case ("PUT", path):
                _, _, oid, part = path.split("/")
                self.parts.setdefault(oid, {})[int(part)] = request.content
                return Response({}, headers={"ETag": hashlib.md5(request.content).hexdigest()})
            case ("POST", path) if path.startswith("/complete/"):
                content = b"".join(part for _, part in sorted(self.parts.pop(request.json["oid"]).items()))
                assert hashlib.sha256(content).hexdigest() == request.json["oid"]
                self.objects.add(request.json["oid"])
                return Response({})
            case ("POST", path) if path.endswith("/commit/main"):
                return self._commit(request)
            case ("GET", path) if path == f"/api/models/{REPOSITORY}":
                siblings: list[dict[str, Any]] = [
                    {"rfilename": name, "size": 1, "blobId": "b", "lfs": {"sha256": oid, "size": 1, "pointerSize": 1}}
                    for name, oid in self.files.items()
                ]
                return Response({"id": REPOSITORY, "sha": "c" * 40, "private": self.private, "siblings": siblings})
            case (_, "/meta-llama/Llama-3.1-8B-Instruct/resolve/main/LICENSE"):
                headers = {"ETag": '"licence"', "X-Repo-Commit": "c" * 40, "Content-Type": "text/plain"}
                return Response(b"LLAMA 3.1 COMMUNITY LICENSE AGREEMENT", headers=headers)
        return Response({"error": f"no such path: {request.path}"}, 404, {"X-Error-Code": "EntryNotFound"})

    def _upload_action(self, entry: dict[str, Any]) -> dict[str, Any]:
        if entry["oid"] in self.objects:
            return entry
        numbers = range(1, -(-entry["size"] // PART) + 1)
        parts = {str(n): f"{self.url}/storage/{entry['oid']}/{n}?signature=s3cr3t" for n in numbers}
        href = f"{self.url}/complete/{entry['oid']}"
        return entry | {"actions": {"upload": {"href": href, "header": parts | {"chunk_size": str(PART)}}}}

    def _commit(self, request: Request) -> Response:
        for line in request.content.splitlines():
            operation = json.loads(line)
            match operation["key"]:
                case "lfsFile":
                    assert operation["value"]["oid"] in self.objects
                    self.files[operation["value"]["path"]] = operation["value"]["oid"]
                case "file":
                    self.files[operation["value"]["path"]] = "text"
                case "deletedFile":
                    del self.files[operation["value"]["path"]]
        url = f"{self.url}/{REPOSITORY}/commit/{'c' * 40}"
        return Response({"success": True, "commitOid": "c" * 40, "commitUrl": url})


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubPeer]:
    peer = HubPeer()
    with running(peer):
        monkeypatch.setenv("HF_ENDPOINT", peer.url)
        monkeypatch.setenv("HF_TOKEN", KEY)
        monkeypatch.setattr("time.sleep", lambda _: None)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # its storage is no HTTP of ours
        yield peer


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RUNS", "MODELS", "CACHE"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / name.lower()))
    return make_published_run(tmp_path / "runs/small", {"hub": {"repository": REPOSITORY}})


def test_files_card_and_tags_are_there_private_and_compared(run: Path, peer: HubPeer) -> None:
    record = publish_run(open_publication(run, "hub"), print)
    assert peer.private is True
    weights = {"adapter_model.safetensors", "tuned-F16.gguf", "tuned-Q4_K_M.gguf"}
    assert set(peer.files) == weights | {"adapter_config.json", "README.md"}
    assert record.compared and record.compared.reason.startswith("all 3 files of weights there are the local ones")
    (commit,) = [request for request in peer.requests if request.path.endswith("/commit/main")]
    assert b"summary" in commit.content
    withdraw_run(open_publication(run, "hub"), print)
    assert peer.private is None


def test_the_same_upload_twice_is_one(run: Path, peer: HubPeer) -> None:
    publish_run(open_publication(run, "hub"), print)
    (run / FILE).unlink()
    peer.requests.clear()
    publish_run(open_publication(run, "hub"), print)
    assert not [call for call in peer.calls() if call.startswith("PUT")]


def test_a_repository_that_was_there_loses_only_what_was_added(run: Path, peer: HubPeer) -> None:
    peer.private, peer.files = True, {"other.txt": "text"}
    publish_run(open_publication(run, "hub"), print)
    withdraw_run(open_publication(run, "hub"), print)
    assert peer.files == {"other.txt": "text"} and peer.private is True


def test_a_public_repository_is_not_published_to_as_a_private_one(run: Path, peer: HubPeer) -> None:
    peer.private = False
    with pytest.raises(BadRequest, match="publish.hub.private: True: you/demo is public"):
        publish_run(open_publication(run, "hub"), print)
    assert not peer.files


def test_a_form_that_is_left_out_later_is_deleted(run: Path, peer: HubPeer) -> None:
    publish_run(open_publication(run, "hub"), print)
    publish_run(open_publication(run, "hub", ["publish.hub.forms=[adapter]"]), print)
    assert set(peer.files) == {"adapter_model.safetensors", "adapter_config.json", "README.md"}


def test_a_connection_that_breaks_repeats_one_part(run: Path, peer: HubPeer) -> None:
    (run / "train/adapter/adapter_model.safetensors").write_bytes(bytes(range(256)) * (4 * PART // 256) + b"rest")
    make_again(run, "train")
    make_again(run, "convert")
    make_again(run, "evaluate")
    peer.faults = [Fault("PUT /storage/.*/3", breaks_after=1 << 16)]
    publish_run(open_publication(run, "hub", ["publish.hub.forms=[adapter]"]), print)
    puts = [call for call in peer.calls() if call.startswith("PUT")]
    assert len(puts) == len(set(puts)) == 5  # the broken one was not a whole request


def test_a_wrong_key_no_quota_and_too_many_requests_are_told_apart(run: Path, peer: HubPeer) -> None:
    publication = open_publication(run, "hub")
    peer.faults = [Fault("POST /api/repos/create", 401, body={"error": f"Invalid {KEY}"})]
    with pytest.raises(BadRequest, match=r"the key in HF_TOKEN was refused \(401\)") as refused:
        publish_run(publication, print)
    assert KEY not in str(refused.value) + (run / FILE).read_text()
    peer.faults = [Fault("POST /api/repos/create", 403, body={"error": "Private repository storage limit reached"})]
    with pytest.raises(StageFailed, match=r"no quota \(403\)"):
        publish_run(publication, print)
    peer.faults = [Fault("POST /api/repos/create", 429, {"Retry-After": "2"}, {"error": "slow down"})]
    publish_run(publication, print)
    assert peer.calls().count("POST /api/repos/create") == 4


def test_an_unexpected_answer_is_named(run: Path, peer: HubPeer) -> None:
    peer.faults = [Fault("POST .*objects/batch", 200, body={"objects": "none"})]
    with pytest.raises(StageFailed, match="Hugging Face Hub: unexpected answer"):
        publish_run(open_publication(run, "hub"), print)
    assert read_published(run).targets["hub"].state == "publishing"
    publish_run(open_publication(run, "hub"), print)
    assert "s3cr3t" not in (run / FILE).read_text()


def test_another_file_there_is_noticed(run: Path, peer: HubPeer) -> None:
    publish_run(open_publication(run, "hub"), print)
    peer.files["tuned-F16.gguf"] = "0" * 64
    with pytest.raises(StageFailed, match="tuned-F16.gguf: has SHA-256 000"):
        publish_run(open_publication(run, "hub"), print)


def test_the_licence_of_a_base_on_the_hub_goes_along(peer: HubPeer) -> None:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=peer.url, token=KEY)
    licences = fetch_licences(api, "meta-llama/Llama-3.1-8B-Instruct", None)
    assert licences == {"LICENSE": b"LLAMA 3.1 COMMUNITY LICENSE AGREEMENT"}


def test_without_a_repository_nothing_is_asked(run: Path, peer: HubPeer) -> None:
    with pytest.raises(BadRecipe, match="publish.hub.repository: required"):
        plan_steps(open_publication(run, "hub", ["publish.hub={}"]))
    assert not peer.requests
