"""What the gateway takes and refuses, whose keys open it, and how settings change while it runs."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import pytest
import yaml
from typer.testing import CliRunner

from tests.unit.misbehaving import ANSWER, Connection, MisbehavingUpstream, running, serving, target
from tuneline.cli import app
from tuneline.endpoints import keys
from tuneline.endpoints.gateway.app import Gateway
from tuneline.endpoints.gateway.request_schema import FIELDS

HELLO = {"model": "good", "messages": [{"role": "user", "content": "hello"}]}
TOOL = {"type": "function", "function": {"name": "send", "parameters": {"type": "object"}}}


async def hung(c: Connection) -> None:
    await asyncio.sleep(30)


async def slow(c: Connection) -> None:
    await asyncio.sleep(0.4)
    await c.answer()


@pytest.fixture
def upstream() -> Iterator[MisbehavingUpstream]:
    with running(MisbehavingUpstream({"slow": slow, "hung": hung})) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_LOGS", str(tmp_path / "logs"))
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    return tmp_path


@pytest.fixture
def file(folder: Path, upstream: MisbehavingUpstream) -> Path:
    return write(folder, upstream)


def write(folder: Path, upstream: MisbehavingUpstream, **more: Any) -> Path:
    models = {
        "good": {"baseline": target(upstream, "good", response_s=5)},
        "hung": {"baseline": target(upstream, "hung", response_s=20)},
        "slow": {"baseline": target(upstream, "slow", response_s=5)},
        "wide": {"baseline": target(upstream, "wide", extra_fields=["top_k"], apis=["chat/completions", "embeddings"])},
    }
    (folder / "gateway.yaml").write_text(yaml.safe_dump({"models": models, "tasks": ["pricing"]} | more))
    return folder / "gateway.yaml"


@pytest.fixture
def served(file: Path) -> Iterator[tuple[httpx2.Client, Gateway]]:
    with serving(file) as (url, gateway), httpx2.Client(base_url=url, timeout=10) as client:
        yield client, gateway


BAD: dict[str, tuple[Any, str]] = {
    "not JSON": (b"{", ""),
    "no object": (b"[1]", ""),
    "half a character": (b'{"model": "\\ud800", "messages": []}', ""),
    "no model": ({"messages": HELLO["messages"]}, ""),
    "model a number": (HELLO | {"model": 7}, "model"),
    "no messages": ({"model": "good"}, ""),
    "messages a text": (HELLO | {"messages": "hi"}, "messages"),
    "a message without a role": (HELLO | {"messages": [{"content": "hi"}]}, "messages.0"),
    "a tool without a function": (HELLO | {"tools": [{"type": "function"}]}, "tools.0"),
    "tools an empty object": (HELLO | {"tools": [{}] * 9}, "tools.0"),
    "a tool's name with spaces": (
        HELLO | {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        "tools.0.function.name",
    ),
    "a call without a type": (
        HELLO | {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{}"}}]}]},
        "messages.0",
    ),
    "temperature a text": (HELLO | {"temperature": "hot"}, "temperature"),
    "temperature infinite": (b'{"model": "good", "messages": [], "temperature": Infinity}', ""),
    "a template": (HELLO | {"chat_template": "{{ 1 }}"}, "chat_template"),
    "a template in the kwargs": (HELLO | {"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs"),
    "a slow sampler": (HELLO | {"dry_sequence_breakers": ["a"] * 15}, "dry_sequence_breakers"),
    "a grammar": (HELLO | {"grammar": "root ::= x"}, "grammar"),
    "top_k, which this one has not": (HELLO | {"top_k": 3}, "top_k"),
    "50,000 values to choose from": (
        HELLO | {"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": list(range(50_000))}}}},
        "response_format",
    ),
    "too many choices": (HELLO | {"n": 100}, "n"),
    "too many tokens": (HELLO | {"max_tokens": 10**9}, "max_tokens"),
    "too deep": (HELLO | {"metadata": json.loads('{"a":' * 80 + "1" + "}" * 80)}, ""),
    "much too deep": (b'{"model": "good", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", ""),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_body_is_the_callers_mistake_by_field(
    served: tuple[httpx2.Client, Gateway], upstream: MisbehavingUpstream, case: str
) -> None:
    body, field = BAD[case]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = served[0].post("/v1/chat/completions", content=content)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error" and response.headers["x-request-id"] in error["message"]
    assert (error["param"] or "").startswith(field) and (not field or error["param"])
    assert not upstream.attempts


def test_fields_pass_unchanged_and_extra_ones_where_they_are_allowed(
    served: tuple[httpx2.Client, Gateway], upstream: MisbehavingUpstream
) -> None:
    body = HELLO | {"model": "wide", "top_k": 3, "tools": [TOOL], "seed": 7, "logprobs": True, "metadata": {"a": "b"}}
    assert served[0].post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"] == ANSWER
    assert upstream.attempts[0].body == body


def test_control_tokens_of_a_server_of_ones_own_are_sent_as_text(folder: Path, upstream: MisbehavingUpstream) -> None:
    named = {"baseline": target(upstream, "good", response_s=5, control_tokens=["<|eot_id|>"])}
    (folder / "gateway.yaml").write_text(yaml.safe_dump({"models": {"good": named}}))
    with serving(folder / "gateway.yaml") as (url, _), httpx2.Client(base_url=url, timeout=10) as client:
        body = HELLO | {"messages": [{"role": "user", "content": "a<|eot_id|>b"}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert upstream.attempts[0].body["messages"][0]["content"] == "a< |eot_id|>b"


def test_the_fields_are_those_of_the_openai_package() -> None:
    from openai.types import completion_create_params, embedding_create_params
    from openai.types.chat import completion_create_params as chat_params
    from openai.types.responses import response_create_params

    for api, params in (
        ("chat/completions", chat_params.CompletionCreateParamsBase),
        ("completions", completion_create_params.CompletionCreateParamsBase),
        ("embeddings", embedding_create_params.EmbeddingCreateParams),
        ("responses", response_create_params.ResponseCreateParamsBase),
    ):
        names = set(params.__annotations__)
        assert names - set(FIELDS[api]) <= {"stream"}, api
        assert set(FIELDS[api]) - names <= {"stream", "messages"}, api


@pytest.mark.parametrize("metadata", [[1], "x", 7])
def test_metadata_that_is_no_object_is_the_callers_mistake_on_every_path(
    served: tuple[httpx2.Client, Gateway], metadata: Any
) -> None:
    for path, body in (("chat/completions", HELLO), ("completions", {"model": "good", "prompt": "x"})):
        answer = served[0].post(f"/v1/{path}", json=body | {"metadata": metadata})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "metadata")


@pytest.mark.parametrize("rating", [{}, [], 1, "fine", None])
def test_a_rating_that_is_none_is_the_callers_mistake(served: tuple[httpx2.Client, Gateway], rating: Any) -> None:
    answer = served[0].post("/v1/feedback", json={"id": "req_1", "rating": rating})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "rating")


def test_paths_and_methods(served: tuple[httpx2.Client, Gateway]) -> None:
    client = served[0]
    statuses = {path: client.get(path).status_code for path in ("/health", "/ready", "/v1/models", "/v1/x", "/")}
    assert statuses == {"/health": 200, "/ready": 200, "/v1/models": 200, "/v1/x": 404, "/": 404}
    wrong = client.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    unknown = client.post("/v1/chat/completions", json=HELLO | {"model": "nobody"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert client.post("/v1/embeddings", json={"model": "good", "input": "x"}).status_code == 404
    assert client.post("/v1/load_lora_adapter", json={}).status_code == 404
    listed = [entry["id"] for entry in client.get("/v1/models").json()["data"]]
    assert listed == ["good", "hung", "slow", "wide"]


def test_a_body_that_is_too_large_or_too_slow_is_refused(folder: Path, upstream: MisbehavingUpstream) -> None:
    file = write(folder, upstream, limits={"body_mib": 0.01, "body_s": 0.3})
    with serving(file) as (url, _), httpx2.Client(base_url=url) as client:
        large = HELLO | {"user": "x" * 20_000}
        assert client.post("/v1/chat/completions", json=large).status_code == 413

        def pieces() -> Iterator[bytes]:
            yield b"{"
            time.sleep(0.6)
            yield b"}"

        assert client.post("/v1/chat/completions", content=pieces()).status_code == 408


def test_requests_beyond_the_queue_are_told_when_to_come_back(folder: Path, upstream: MisbehavingUpstream) -> None:
    file = write(folder, upstream, limits={"concurrency": 2, "queue": 1})
    with serving(file) as (url, _), httpx2.Client(base_url=url) as client, ThreadPoolExecutor(6) as pool:
        responses = list(
            pool.map(lambda _: client.post("/v1/chat/completions", json=HELLO | {"model": "slow"}), range(6))
        )
        refused = [response for response in responses if response.status_code == 429]
        assert len(refused) == 3 and all(response.headers["retry-after"] == "1" for response in refused)
        assert client.post("/v1/chat/completions", json=HELLO).status_code == 200


def test_a_hung_upstream_holds_up_no_other(folder: Path, upstream: MisbehavingUpstream) -> None:
    file = write(folder, upstream)
    with serving(file) as (url, _), httpx2.Client(base_url=url, timeout=5) as client:
        leaving = threading.Thread(target=lambda: asyncio.run(ask_and_leave(url, 120)))
        leaving.start()
        for _ in range(3):
            assert client.post("/v1/chat/completions", json=HELLO).status_code == 200
        leaving.join()


async def ask_and_leave(url: str, callers: int) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(0.3)) as session:
        asked = [session.post(f"{url}/v1/chat/completions", json=HELLO | {"model": "hung"}) for _ in range(callers)]
        assert all(isinstance(error, TimeoutError) for error in await asyncio.gather(*asked, return_exceptions=True))


def test_keys_open_close_and_limit(file: Path, folder: Path) -> None:
    key = keys.add_key("maria")
    with serving(file, with_keys=True) as (url, _), httpx2.Client(base_url=url) as client:
        opened = {"Authorization": f"Bearer {key}"}
        for path in ("/v1/models", "/v1/chat/completions", "/v1/x", "/metrics"):
            response = client.get(path)
            assert response.status_code == 401 and "good" not in response.text
        assert client.get("/health").status_code == client.get("/ready").status_code == 200
        assert client.post("/v1/chat/completions", json=HELLO, headers=opened).status_code == 200
        assert client.post("/v1/chat/completions", json=HELLO, headers={"x-api-key": key}).status_code == 200

        change_key(folder, "maria", models=["slow"])
        assert client.post("/v1/chat/completions", json=HELLO, headers=opened).status_code == 404
        assert [m["id"] for m in client.get("/v1/models", headers=opened).json()["data"]] == ["slow"]
        change_key(folder, "maria", models=[], requests_per_minute=2)
        statuses = [client.post("/v1/chat/completions", json=HELLO, headers=opened).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        change_key(folder, "maria", requests_per_minute=None, tokens_per_minute=100)
        statuses = [client.post("/v1/chat/completions", json=HELLO, headers=opened).status_code for _ in range(4)]
        assert statuses[:2] == [200, 200] and statuses[3] == 429  # 81 tokens each, counted when they are known
        change_key(folder, "maria", tokens_per_minute=None, until="2020-01-01T00:00:00+00:00")
        assert client.get("/v1/models", headers=opened).status_code == 401
        change_key(folder, "maria", until=(datetime.now(UTC) + timedelta(days=1)).isoformat())
        assert client.get("/v1/models", headers=opened).status_code == 200

        (folder / "policy/keys.json").write_text('{"maria": {"sha2')  # a broken file closes nothing …
        assert client.get("/v1/models", headers=opened).status_code == 200
        (folder / "policy/keys.json").write_text("{}")
        assert client.get("/v1/models", headers=opened).status_code == 401  # … and a revoked key is closed at once


def test_a_key_is_limited_and_rotated_by_the_command(file: Path, folder: Path) -> None:
    first = run("keys", "add", "maria", "--model", "good", "--usd-per-day", "5", "--until", "2099-01-31").split()[0]
    run("keys", "add", "otto", "--until", "yesterday", code=2)
    run("keys", "change", "nobody", "--model", "good", code=2)
    with serving(file, with_keys=True) as (url, _), httpx2.Client(base_url=url) as client:

        def names(key: str) -> list[str]:
            response = client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
            return [m["id"] for m in response.json().get("data", ())]

        assert names(first) == ["good"]
        second = run("keys", "rotate", "maria", "--hours", "1").split()[0]
        assert names(first) == names(second) == ["good"] and first != second
        run("keys", "change", "maria", "--model", "slow")
        assert names(first) == names(second) == ["slow"]
        kept = {"models": ["slow"], "usd_per_day": 5.0, "until": "2099-01-31T00:00:00Z"}  # what is not given stays
        assert entry_of("maria", folder).items() >= kept.items()
        run("keys", "change", "maria", "--unlimited", "usd-per-day", "--requests-per-minute", "600")
        assert entry_of("maria", folder).items() >= {"models": ["slow"], "requests_per_minute": 600}.items()
        assert "usd_per_day" not in entry_of("maria", folder)
        run("keys", "change", "maria", "--unlimited", "everything", code=2)
        third = run("keys", "rotate", "maria", "--hours", "0").split()[0]
        assert (names(first), names(second), names(third)) == ([], [], ["slow"])
        run("keys", "revoke", "maria")
        assert names(third) == []
    assert first not in (folder / "policy/keys.json").read_text()


def entry_of(owner: str, folder: Path) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads((folder / "policy/keys.json").read_text())[owner]
    return entry


def change_key(folder: Path, owner: str, **settings: Any) -> None:
    file = folder / "policy/keys.json"
    entries = json.loads(file.read_text())
    entries[owner] |= settings
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(entries))
    temporary.replace(file)


def test_settings_are_read_again_and_a_broken_edit_changes_nothing(
    folder: Path, file: Path, upstream: MisbehavingUpstream
) -> None:
    with serving(file) as (url, gateway), httpx2.Client(base_url=url) as client:
        good = file.read_text(encoding="utf-8")
        file.write_text(good.replace("body_mib", "x") + "\nmodells: {}\n", encoding="utf-8")
        wait_for(lambda: "modells" in gateway.settings.mistake)
        assert client.post("/v1/chat/completions", json=HELLO).status_code == 200
        file.write_text(good.replace("good:", "better:", 1), encoding="utf-8")
        wait_for(lambda: "better" in gateway.settings.current.models and not gateway.settings.mistake)
        assert client.post("/v1/chat/completions", json=HELLO | {"model": "better"}).status_code == 200


def test_chat_at_the_gateway_takes_its_only_model_or_the_one_that_is_named(
    folder: Path, file: Path, upstream: MisbehavingUpstream
) -> None:
    with serving(file) as (url, _):
        run("chat", f"{url}/v1", "hello", code=2)  # it has several
        assert ANSWER.strip() in run("chat", f"{url}/v1", "hello", "--model", "good")
    models = {"only": {"baseline": target(upstream, "good", response_s=5, first_token_s=5)}}
    (folder / "one.yaml").write_text(yaml.safe_dump({"models": models}))
    with serving(folder / "one.yaml") as (url, _):
        assert ANSWER.strip() in run("chat", f"{url}/v1", "hello")


def test_feedback_is_a_line_of_its_own(served: tuple[httpx2.Client, Gateway], folder: Path) -> None:
    client = served[0]
    asked = client.post("/v1/chat/completions", json=HELLO).headers["x-request-id"]
    for body in (
        {"id": asked},
        {"id": "x", "rating": "good"},
        {"id": asked, "rating": "fine"},
        {"id": asked, "value": 2},
    ):
        assert client.post("/v1/feedback", json=body).status_code == 400
    assert client.post("/v1/feedback", json={"id": asked, "rating": "bad", "correction": "hi!"}).status_code == 200
    lines = [json.loads(line) for file in folder.glob("logs/requests/*") for line in file.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["request", "feedback"] and lines[1]["value"] == 0.0
    assert lines[0]["id"] == lines[1]["id"] == asked


def run(*words: str, code: int = 0) -> str:
    """Run the command in this process, whose environment the folder's is."""
    done = CliRunner().invoke(app, list(words))
    ended = done.exit_code if done.exception is None else getattr(done.exception, "exit_code", done.exit_code)
    assert ended == code, (done.output, done.exception)
    return done.output


def wait_for(condition: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
