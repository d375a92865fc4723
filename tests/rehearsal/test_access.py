"""Who may use a control plane: whoever has its token. Nobody else calls it, reads its state or plants one."""

import asyncio
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpclib
import pytest
from grpclib import Status
from grpclib.client import Channel
from modal_proto.api_grpc import ModalClientBase, ModalClientStub

from tests.rehearsal.conftest import APPS, MODAL, Stage
from tuneline.core.errors import BadRequest
from tuneline.rehearsal.command import run_rehearsed
from tuneline.rehearsal.session import ADDRESS, Rehearsal

RPCS = sorted(ModalClientBase.__abstractmethods__)
CONTROL = ("apps/tuneline", "trigger/tuneline/f", "disturb/f", "preempt/f", "volumes/tuneline-runs")
NOBODY = 65534


def call(stage: Stage, metadata: dict[str, str], requests: dict[str, dict[str, Any]]) -> dict[str, Status | None]:
    """Return RPC → the status of its response to a request with these fields; None for a success."""

    async def call_all() -> dict[str, Status | None]:
        host, port = stage.rehearsal.plane.server_url.removeprefix("http://").split(":")
        channel = Channel(host, int(port))
        stub = ModalClientStub(channel)
        statuses: dict[str, Status | None] = {}
        for name, fields in requests.items():
            method = getattr(stub, name)
            statuses[name] = None
            try:
                async with method.open(metadata=metadata, timeout=10) as stream:
                    await stream.send_message(method.request_type(**fields), end=True)
                    await stream.recv_message()
            except grpclib.GRPCError as error:
                statuses[name] = error.status
        channel.close()
        return statuses

    return asyncio.run(call_all())


@pytest.mark.parametrize("secret", [None, "as-rehearsal", "as-", "x" * 1000])
def test_no_rpc_answers_without_the_token(stage: Stage, secret: str | None) -> None:
    metadata = {"x-modal-token-id": "ak-rehearsal", "x-rehearsal-container": "ta-0000000000000000000001"}
    metadata |= {} if secret is None else {"x-modal-token-secret": secret}
    statuses = call(stage, metadata, {name: {} for name in RPCS})
    assert len(statuses) > 200
    assert {name for name, status in statuses.items() if status != Status.UNAUTHENTICATED} == set()


def test_modal_says_what_to_do_without_the_token(stage: Stage) -> None:
    out = stage.modal("volume", "list", MODAL_TOKEN_SECRET="as-rehearsal", code=1)
    assert "tuneline rehearse --" in out
    stage.modal("volume", "list")


def http_status(url: str, method: str, headers: dict[str, str] | None = None) -> int:
    request = urllib.request.Request(url, b"x" if method != "GET" else None, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("path", CONTROL)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer as-rehearsal"}, {"Authorization": "Bearer "}])
def test_the_control_api_answers_nobody_without_the_token(stage: Stage, path: str, headers: dict[str, str]) -> None:
    for method in ("GET", "POST"):
        assert http_status(f"{stage.rehearsal.address}/rehearsal/{path}", method, headers) == 401


def test_a_file_is_read_and_written_at_its_signed_address_only(stage: Stage, tmp_path: Path) -> None:
    plane = stage.rehearsal.plane
    (tmp_path / "a b#c?d%41.txt").write_text("content")
    stage.modal("volume", "create", "signed")
    stage.modal("volume", "put", "signed", str(tmp_path / "a b#c?d%41.txt"), "/")
    volume = plane.state.ids["volume", "signed"]
    stage.modal("volume", "get", "signed", "a b#c?d%41.txt", str(tmp_path / "down.txt"))
    assert (tmp_path / "down.txt").read_text() == "content"
    signed = plane.signed_url("/blob/bl-1")
    foreign = signed.replace("/blob/bl-1", "/blob/bl-2")
    unsigned = [f"{plane.address}/blob/bl-1", foreign, f"{signed[:-1]}~", f"{plane.address}/volume/{volume}/x?from=0"]
    for url in unsigned:
        assert [http_status(url, method) for method in ("GET", "PUT")] == [401, 401]
    assert (http_status(signed, "PUT"), http_status(signed, "GET")) == (200, 200)


def test_it_listens_on_loopback_only(stage: Stage) -> None:
    for url in (stage.rehearsal.plane.server_url, stage.rehearsal.address):
        host, port = url.removeprefix("http://").split(":")
        assert host == "127.0.0.1"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", int(port)), timeout=5)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's."""
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_state_and_token_are_for_their_owner_alone(open_folder: Path) -> None:
    state, secrets = open_folder / "state", set[str]()
    state.mkdir()
    before = os.umask(0)
    try:
        for _ in range(2):
            with Rehearsal(state) as rehearsal:
                environment = os.environ | rehearsal.environment
                secrets.add(secret := rehearsal.environment["MODAL_TOKEN_SECRET"])
                assert os.spawnve(os.P_WAIT, MODAL, [MODAL, "deploy", str(APPS / "web.py")], environment) == 0
                words = [MODAL, "secret", "create", "hidden", "KEY=hush", "--force"]
                assert os.spawnve(os.P_WAIT, MODAL, words, environment) == 0
                assert secret in (state / ADDRESS).read_text()
                assert (state / ADDRESS).stat().st_mode & 0o077 == 0
                assert not any(secret.encode() in line for line in read_command_lines())
    finally:
        os.umask(before)
    assert len(secrets) == 2
    assert state.stat().st_mode & 0o777 == 0o700
    for file in (state / "plane.json", state / "secrets/hidden.json"):
        assert file.stat().st_mode & 0o077 == 0
    assert "hush" in (state / "secrets/hidden.json").read_text()
    assert not can_enter(state, NOBODY)


def test_a_folder_that_others_could_have_filled_is_refused(open_folder: Path) -> None:
    (open_folder / "planted").mkdir()
    (open_folder / "planted").chmod(0o777)
    with pytest.raises(BadRequest, match="others may write there"):
        run_rehearsed(["true"], open_folder / "planted")
    if os.getuid() == 0:
        (open_folder / "foreign").mkdir(0o700)
        os.chown(open_folder / "foreign", NOBODY, NOBODY)
        with pytest.raises(BadRequest, match="belongs to another user"):
            run_rehearsed(["true"], open_folder / "foreign")


def read_command_lines() -> Iterator[bytes]:
    """Yield the arguments of every process, which all users see."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield file.read_bytes()
        except OSError:
            continue


def can_enter(folder: Path, user: int) -> bool:
    """Whether `user` may list a folder; only root can find out, others are told what its mode says."""
    if os.getuid() != 0:
        return bool(folder.stat().st_mode & 0o077)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        os._exit(int(os.access(folder, os.R_OK) or os.access(folder, os.X_OK)))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


@pytest.mark.parametrize("name", ["../../escaped", "..", ".", "a/b", "/tmp/escaped"])
def test_no_name_leads_out_of_the_state(stage: Stage, name: str) -> None:
    metadata = {"x-modal-token-secret": stage.rehearsal.environment["MODAL_TOKEN_SECRET"]}
    requests: dict[str, dict[str, Any]] = {
        "VolumeGetOrCreate": {"deployment_name": name, "object_creation_type": 1},
        "SecretGetOrCreate": {"deployment_name": name, "env_dict": {"KEY": "hush"}},
        "MountPutFile": {"sha256_hex": name, "data": b"x"},
    }
    before = sorted(stage.folder.parent.iterdir())
    assert call(stage, metadata, requests) == dict.fromkeys(requests, Status.INVALID_ARGUMENT)
    assert sorted(stage.folder.parent.iterdir()) == before
