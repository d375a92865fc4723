"""Target `s3` with s3fs against moto's S3 server: checksums, an upload that breaks, a wrong key, no bucket."""

import contextlib
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cut_connection import CutConnection, cut_connection
from tests.published_runs import make_published_run
from tests.runs import make_again
from tuneline.core.errors import BadRequest, StageFailed
from tuneline.publish.command import open_publication, publish_run, withdraw_run
from tuneline.publish.parts import PART_BYTES
from tuneline.publish.record import FILE, read_published
from tuneline.publish.storage import sign_address

SECRET = "secret-of-the-test-1234567890"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[CutConnection]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with cut_connection(port) as proxy:
        variables = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in variables.items() | {("AWS_ENDPOINT_URL_S3", proxy.url), ("AWS_MAX_ATTEMPTS", "1")}:
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="models")
        yield proxy
    server.stop()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # each test has a server of its own
    monkeypatch.setattr(s3fs.core.S3FileSystem, "retries", 1)
    for name in ("RUNS", "MODELS", "CACHE"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / name.lower()))
    return make_published_run(tmp_path / "runs/small", {"s3": {"url": "s3://models/demo"}})


def test_files_and_checksums_are_there_and_can_be_taken_back(run: Path, s3: CutConnection) -> None:
    record = publish_run(open_publication(run, "s3"), print)
    assert record.compared and record.compared.reason.startswith("all 4 files there are the local ones")
    assert _keys() == {
        "demo/adapter_config.json": "",
        "demo/adapter_model.safetensors": "",
        **{f"demo/tuned-{kind}.gguf": "" for kind in ("F16", "Q4_K_M")},
        "demo/SHA256SUMS": "",
    }
    withdraw_run(open_publication(run, "s3"), print)
    assert _keys() == {}


@pytest.mark.parametrize("megabytes", [48, pytest.param(200, marks=pytest.mark.slow)])
def test_an_upload_that_breaks_repeats_at_most_one_part(run: Path, s3: CutConnection, megabytes: int) -> None:
    parts = megabytes * 10**6 // PART_BYTES
    size = write_adapter(run, parts * PART_BYTES + 12345)
    s3.limit = (parts - 1) * PART_BYTES + PART_BYTES // 2
    broken = publish_in_a_process(run)
    assert "the upload broke off: " in broken.said and "run the same command again" in broken.said
    already, s3.limit = s3.sent, None
    whole = publish_in_a_process(run)
    assert (broken.code, whole.code) == (1, 0) and already > (parts - 1) * PART_BYTES
    assert s3.sent < size + PART_BYTES + (1 << 20)
    assert _client().head_object(Bucket="models", Key="demo/adapter_model.safetensors")["ContentLength"] == size


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(run: Path, s3: CutConnection) -> None:
    peaks_kib = []
    for megabytes in (48, 200):
        write_adapter(run, megabytes * 10**6)
        peaks_kib.append(publish_in_a_process(run).peak_kib)
    assert peaks_kib[1] - peaks_kib[0] < 32 * 1024, peaks_kib


@dataclass
class Ended:
    code: int
    said: str
    peak_kib: int


def write_adapter(run: Path, size: int) -> int:
    (run / "train/adapter/adapter_model.safetensors").write_bytes(bytes(range(251)) * (size // 251 + 1))
    os.truncate(run / "train/adapter/adapter_model.safetensors", size)
    make_again(run, "train")
    return size


def publish_in_a_process(run: Path) -> Ended:
    """The command, with the most memory that it had: this process holds what the server was sent."""
    words = ["-m", "tuneline", "publish", run.name, "--to", "s3", "--set", "publish.s3.forms=[adapter]"]
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(process.returncode, " ".join(said.split()), usage.ru_maxrss)


def test_the_same_file_twice_is_one(run: Path, s3: CutConnection) -> None:
    publish_run(open_publication(run, "s3"), print)
    (run / FILE).unlink()  # what a second machine knows
    s3.sent = 0
    before = _client().head_object(Bucket="models", Key="demo/tuned-F16.gguf")["LastModified"]
    publish_run(open_publication(run, "s3"), print)
    assert _client().head_object(Bucket="models", Key="demo/tuned-F16.gguf")["LastModified"] == before


def test_a_bucket_that_is_not_there_is_named_and_no_key_is_shown(run: Path, s3: CutConnection) -> None:
    publication = open_publication(run, "s3", ["publish.s3.url=s3://nobodys/demo"])
    with pytest.raises(BadRequest, match="s3://nobodys/demo/.*no such bucket or folder") as refused:
        publish_run(publication, print)
    assert SECRET not in str(refused.value) + (run / FILE).read_text()


def test_another_file_in_its_place_is_noticed(run: Path, s3: CutConnection) -> None:
    publish_run(open_publication(run, "s3"), print)
    _client().put_object(Bucket="models", Key="demo/tuned-F16.gguf", Body=b"of somebody else")
    with pytest.raises(StageFailed, match=r"tuned-F16.gguf: has SHA-256 None, not"):
        publish_run(open_publication(run, "s3"), print)
    assert read_published(run).targets["s3"].state == "published"


def _client() -> Any:
    import boto3

    return boto3.client("s3")


def _keys() -> dict[str, str]:
    return {entry["Key"]: "" for entry in _client().list_objects_v2(Bucket="models").get("Contents", [])}


def test_an_unfinished_upload_of_other_content_is_given_up(run: Path, s3: CutConnection) -> None:
    weights = run / "train/adapter/adapter_model.safetensors"
    publication = open_publication(run, "s3", ["publish.s3.forms=[adapter]"])
    for content in (b"first" * PART_BYTES, b"later" * PART_BYTES):
        weights.write_bytes(content[: 2 * PART_BYTES])
        make_again(run, "train")
        s3.sent, s3.limit = 0, PART_BYTES + PART_BYTES // 2 if content.startswith(b"first") else None
        with pytest.raises(StageFailed) if s3.limit else contextlib.nullcontext():
            publish_run(publication, print)
    there = _client().get_object(Bucket="models", Key="demo/adapter_model.safetensors")["Body"].read()
    assert there == weights.read_bytes()
    assert not _client().list_multipart_uploads(Bucket="models").get("Uploads")


def test_an_archive_is_read_by_a_signed_address(run: Path, s3: CutConnection) -> None:
    publish_run(open_publication(run, "s3"), print)
    address = sign_address("s3://models/demo/tuned-F16.gguf", 6000)
    assert "X-Amz-Expires=6000" in address or "Expires=" in address
    with urllib.request.urlopen(address) as answer:
        assert answer.read() == (run / "convert/tuned-F16.gguf").read_bytes()
