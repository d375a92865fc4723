"""Requests that are no requests: the gateway answers each with an error of the client, never with one of its own."""

import json
import random
from collections.abc import Iterator

import httpx2
import pytest
import yaml

from tests.unit.misbehaving import MisbehavingUpstream, running, serving, target

BODIES = [
    *(b"", b"null", b"[]", b'"x"', b"1", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b'{"model": "\xff"}'),
    *(json.dumps({"model": model}).encode() for model in ([], {}, None, 1, True, ["m"], "\ud800", "no-such")),
    *(b'{"model": "m", "temperature": %s}' % number for number in (b"NaN", b"Infinity", b"1e999", b"9" * 5000)),
    *(b'{"model": "m", "messages": %s}' % text for text in (b'"\\ud800"', b"[" * 500 + b"]" * 500, b"1", b"[[]]")),
    *(b'{"model": "m", "tools": %s}' % tools for tools in (b"1", b'"x"', b"[1]", b'[{"function": {"name": []}}]')),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    folder = tmp_path_factory.mktemp("gateway")
    with pytest.MonkeyPatch.context() as patch, running(MisbehavingUpstream({})) as upstream:
        patch.setenv("TUNELINE_LOGS", str(folder / "logs"))
        patch.setenv("TUNELINE_POLICY", str(folder / "policy"))
        (folder / "gateway.yaml").write_text(yaml.safe_dump({"models": {"m": {"baseline": target(upstream, "m")}}}))
        with serving(folder / "gateway.yaml") as (url, _), httpx2.Client(base_url=url, timeout=10) as client:
            yield client


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_a_malformed_body_is_the_clients_error(client: httpx2.Client, path: str) -> None:
    for body in BODIES:
        response = client.post(f"/v1/{path}", content=body)
        assert response.status_code in (400, 404), f"{response.status_code}: {body[:80]!r}"
        assert response.json()["error"]["message"]


def test_damaged_bodies_are_the_clients_errors(client: httpx2.Client) -> None:
    chance = random.Random(1)
    whole = b'{"model": "m", "messages": [{"role": "user", "content": "h\xc3\xa9"}], "tools": [], "n": 1.5}'
    for _ in range(500):
        at = chance.randrange(len(whole))
        body = whole[:at] + chance.randbytes(chance.randrange(3)) + whole[at + chance.randrange(4) :]
        assert client.post("/v1/chat/completions", content=body).status_code in (200, 400, 404), body


@pytest.mark.parametrize("path", ["load_lora_adapter", "unload_lora_adapter", "../health", "chat/completions/render"])
def test_only_questions_are_passed_on(client: httpx2.Client, path: str) -> None:
    """An engine has more paths, not for everybody: vLLM loads adapters from a folder that a request names."""
    assert client.post(f"/v1/{path}", json={"model": "m"}).status_code in (404, 405)
