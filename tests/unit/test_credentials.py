"""Where keys are sent and where credentials in addresses end up: real servers on two addresses of this machine.

127.0.0.2 plays another host: what counts as this machine is 127.0.0.1, ::1 and localhost.
"""

import asyncio
import base64
import json
import logging
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tuneline.cli.chat import Conversation, open_model
from tuneline.core.errors import BadRequest, NotFound, StageFailed, TunelineError
from tuneline.core.notification import notify
from tuneline.engines.chat_messages import Answer
from tuneline.engines.listed_models import find_only_model
from tuneline.engines.providers import Provider, find_provider
from tuneline.stages.convert.folders import environments
from tuneline.stages.fetch.hub_files import resolve_commit

KEY, PASSWORD, TOKEN = "tl-our-own-key-0123", "p%40ssw0rd-hush", "t0ken-hush"
BASIC = "Basic " + base64.b64encode(b"user:p@ssw0rd-hush").decode()
ASKED = [{"role": "user", "content": "hello"}]
COMPLETION = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
}
CHUNK = COMPLETION | {
    "object": "chat.completion.chunk",
    "choices": [{"index": 0, "finish_reason": "stop", "delta": {"content": "hi"}}],
}


class Host(ThreadingHTTPServer):
    """A server that keeps (path, Authorization) of each request, and answers what `answer(path)` says."""

    def __init__(self, address: str) -> None:
        self.seen: list[tuple[str, str | None]] = []
        self.answer: Callable[[str], tuple[int, dict[str, str], bytes]] = lambda path: answer_openai(path)
        super().__init__((address, 0), Handler)
        self.url = f"http://{address}:{self.server_port}"

    def with_credentials(self, path: str = "/v1") -> str:
        return f"{self.url.replace('://', f'://user:{PASSWORD}@')}{path}?token={TOKEN}"


class Handler(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.path, self.headers["Authorization"]))
        status, headers, body = self.server.answer(self.path)
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "retry-after-ms": "1"} | headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_HEAD = do_GET

    def log_message(self, *_: object) -> None: ...


def answer_openai(path: str) -> tuple[int, dict[str, str], bytes]:
    body = {"data": [{"id": "m"}]} if "/models" in path else COMPLETION
    return 200, {}, json.dumps(body).encode()


def answer_stream(path: str) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "text/event-stream"}, f"data: {json.dumps(CHUNK)}\n\ndata: [DONE]\n\n".encode()


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """A server on this machine, and one on what counts as another host."""
    with ExitStack() as stack:
        here, other = (stack.enter_context(Host(address)) for address in ("127.0.0.1", "127.0.0.2"))
        for host in (here, other):
            threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            stack.callback(host.shutdown)
        yield here, other


@pytest.fixture(autouse=True)
def own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_API_KEY", KEY)
    monkeypatch.delenv("TUNELINE_BASE_URL", raising=False)


def ask(provider: Provider) -> Answer:
    async def asking() -> Answer:
        async with provider.connect("m", retries=1) as chat:
            return await chat.ask(ASKED)

    return asyncio.run(asking())


def send_by_chat(url: str) -> None:
    Conversation(open_model(f"{url}/v1", "m")).ask("hello")


def send_by_load(url: str) -> None:
    find_only_model(f"{url}/v1")


@pytest.mark.parametrize("send", [send_by_chat, send_by_load])
def test_our_key_goes_to_this_machine_and_to_its_own_host_alone(
    hosts: tuple[Host, Host], send: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, other = hosts
    for host in hosts:
        host.answer = answer_stream if send is send_by_chat else answer_openai
    for url in (other.url, other.url.replace("//", "//127.0.0.1@"), other.url.replace("//", "//localhost:80@")):
        send(url)
    assert f"Bearer {KEY}" not in [key for _, key in other.seen] and len(other.seen) == 3
    send(here.url)
    assert here.seen[-1][1] == f"Bearer {KEY}"
    monkeypatch.setenv("TUNELINE_BASE_URL", f"{other.url}/v1")
    send(other.url)
    send(here.url)
    assert (other.seen[-1][1], here.seen[-1][1]) == (f"Bearer {KEY}", f"Bearer {KEY}")
    monkeypatch.setenv("TUNELINE_BASE_URL", f"http://127.0.0.2:{other.server_port + 1}/v1")
    send(other.url)
    assert other.seen[-1][1] != f"Bearer {KEY}"


@pytest.mark.parametrize("send", [send_by_chat, send_by_load])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_takes_our_key_to_no_other_host(
    hosts: tuple[Host, Host], send: Callable[[str], None], status: int
) -> None:
    here, other = hosts
    here.answer = lambda path: (status, {"Location": f"{other.url}{path}"}, b"")
    other.answer = answer_stream if send is send_by_chat else answer_openai
    send(here.url)
    assert here.seen[0][1] == f"Bearer {KEY}"
    assert [key for _, key in other.seen] == [None]


def test_who_lacks_the_key_is_told_how_it_would_be_sent(hosts: tuple[Host, Host]) -> None:
    _, other = hosts
    other.answer = lambda path: (401, {}, b'{"error": {"message": "no"}}')
    with pytest.raises(BadRequest, match=f"export TUNELINE_BASE_URL={other.url}/v1"):
        send_by_chat(other.url)
    with pytest.raises(NotFound, match=f"export TUNELINE_BASE_URL={other.url}/v1"):
        send_by_load(other.url)


def test_a_recipe_cannot_send_our_key_elsewhere_under_its_name(hosts: tuple[Host, Host]) -> None:
    here, other = hosts
    assert ask(find_provider(f"{here.url}/v1", "TUNELINE_API_KEY")).text == "hi"
    with pytest.raises(BadRequest, match="TUNELINE_API_KEY: is only sent to this machine and to the host in"):
        ask(find_provider(f"{other.url}/v1", "TUNELINE_API_KEY"))
    assert not other.seen


def test_a_provider_with_credentials_in_its_address_gets_them(hosts: tuple[Host, Host]) -> None:
    here, _ = hosts
    assert ask(find_provider(here.with_credentials())).text == "hi"
    assert here.seen == [(f"/v1/chat/completions?token={TOKEN}", BASIC)]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 429, 500, 503])
def test_no_error_of_a_provider_shows_them(hosts: tuple[Host, Host], status: int) -> None:
    here, _ = hosts
    url = here.with_credentials()
    quoted = {"message": f"{url}: p@ssw0rd-hush and {PASSWORD} and {TOKEN} are wrong"}
    here.answer = lambda path: (status, {}, json.dumps({"error": quoted}).encode())
    provider = find_provider(url)
    with pytest.raises(TunelineError) as caught:
        ask(provider)
    assert not leaks(f"{caught.value!r} {provider!r} {provider.name} {vars(caught.value)}")


def test_nor_do_those_without_an_answer(hosts: tuple[Host, Host]) -> None:
    here, _ = hosts
    here.answer = lambda path: (200, {}, b"no JSON")
    closed = here.with_credentials().replace(str(here.server_port), "9")
    for url in (closed, here.with_credentials().replace(f":{here.server_port}", ":port"), "http://user:hush@"):
        with pytest.raises(TunelineError) as caught:
            ask(find_provider(url))
        assert not leaks(str(caught.value))
    for address in (f"ftp://user:{PASSWORD}@host", f"user:{PASSWORD}@host"):
        with pytest.raises(NotFound) as unknown:
            find_provider(address)
        assert PASSWORD not in str(unknown.value) or "://" not in address


@pytest.mark.parametrize("status", [200, 302, 401, 500])
def test_a_webhook_gets_the_credentials_of_its_address_and_nobody_else(
    hosts: tuple[Host, Host], status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here, other = hosts
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("TUNELINE_WEBHOOK", here.with_credentials("/hook"))
    here.answer = lambda path: (status, {"Location": f"{other.url}/hook"} if status == 302 else {}, b"{}")
    with caplog.at_level(logging.DEBUG):
        assert notify("done", run="demo") == (status in (200, 302))
    assert here.seen == [(f"/hook?token={TOKEN}", BASIC)]
    assert [key for _, key in other.seen] == ([None] if status == 302 else [])
    assert not leaks(caplog.text)


@pytest.mark.parametrize(
    "address", ["http://user:{}@127.0.0.1:port/h", "http://user:{}@nowhere.invalid/h", "http://{}"]
)
def test_a_webhook_that_is_no_address_ends_nothing_and_is_not_shown(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("TUNELINE_WEBHOOK", address.format("p ss-hush"))
    with caplog.at_level(logging.DEBUG):
        assert notify("done") is False
    assert "webhook" in caplog.text and "hush" not in caplog.text


def test_a_hub_that_is_not_there_is_named_without_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://user:{PASSWORD}@127.0.0.1:9/hub?token={TOKEN}")
    monkeypatch.setattr("tuneline.stages.fetch.hub_requests.FIRST_WAIT_S", 0.0)
    with pytest.raises(StageFailed, match="cannot reach http") as caught:
        resolve_commit("owner/name", None)
    assert not leaks(str(caught.value))


def test_an_index_with_credentials_is_no_argument_of_a_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All users of a machine can read arguments in /proc. The index is a network's edge: here pip fails at once."""
    index = f"http://user:{PASSWORD}@127.0.0.1:9/simple"
    monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_INDEX", index)
    installs: list[tuple[list[str], Any]] = []

    def record(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        installs.append((command, options.get("env", {})))
        failed = "download" in command
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True)
        return subprocess.CompletedProcess(command, int(failed), "", f"no torch at {index}" if failed else "")

    monkeypatch.setattr(environments.subprocess, "run", record)
    with pytest.raises(StageFailed, match="no torch at") as caught:
        environments.environment_python("compress")
    assert installs[-1][1]["PIP_INDEX_URL"] == index
    assert not leaks(f"{[command for command, _ in installs]} {caught.value}")


def leaks(text: str) -> bool:
    return any(secret in text for secret in (PASSWORD, "p@ssw0rd-hush", TOKEN, KEY, BASIC))
