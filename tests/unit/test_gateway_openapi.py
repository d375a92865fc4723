"""The gateway's OpenAPI document, and schemathesis, which asks whatever it allows and much that it does not."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import jsonschema_rs
import pytest
import yaml

from tests.environments import CLIENTS
from tests.unit.misbehaving import MisbehavingUpstream, running, serving, target
from tests.unit.test_gateway_app import BAD, HELLO
from tuneline.endpoints import keys
from tuneline.endpoints.gateway.dialects import DIALECTS

EXAMPLES = os.environ.get("TUNELINE_TEST_EXAMPLES", "150")
"""Of each operation."""


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    monkeypatch.setenv("TUNELINE_LOGS", str(tmp_path / "logs"))
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    with running(MisbehavingUpstream({})) as upstream:
        models = {name: {"baseline": target(upstream, name, response_s=5)} for name in ("good", "wide")}
        (tmp_path / "gateway.yaml").write_text(yaml.safe_dump({"models": models}))
        with serving(tmp_path / "gateway.yaml", with_keys=True) as (url, _):
            yield url, keys.add_key("maria", '{"models": ["good"]}')


def test_it_says_what_the_gateway_takes_and_refuses(gateway: tuple[str, str]) -> None:
    url, key = gateway
    with httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"}) as client:
        assert httpx2.get(f"{url}/openapi.json").status_code == 401
        document: Any = client.get("/openapi.json").json()
        assert {f"/v1/{api}" for api in DIALECTS} <= set(document["paths"])
        assert all(client.get(path).status_code == 200 for path, item in document["paths"].items() if "get" in item)
        schema = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"][
            "schema"
        ]
        validator = jsonschema_rs.Draft202012Validator(schema)
        assert validator.is_valid(HELLO) and not validator.is_valid(HELLO | {"model": "wide"})
        refused = [case for case, (body, _) in BAD.items() if isinstance(body, dict) and not validator.is_valid(body)]
        assert {"temperature a text", "a message without a role", "a tool without a function"} <= set(refused)


@pytest.mark.slow
@pytest.mark.skipif(CLIENTS not in os.environ, reason=f"no environment with schemathesis: {CLIENTS} names its Python")
def test_whatever_is_asked_nothing_fails(
    gateway: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, key = gateway
    command = [Path(os.environ[CLIENTS]).with_name("schemathesis"), "run", f"{url}/openapi.json", "--url", url]
    checks = "not_a_server_error,content_type_conformance,response_schema_conformance,unsupported_method"
    options = ["--checks", checks, "--max-examples", EXAMPLES, "--phases", "examples,coverage,fuzzing", "--no-color"]
    options += ["--header", f"Authorization: Bearer {key}", "--request-timeout", "30", "--seed", "1"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    assert "a bug" not in caplog.text
