"""A provider, a webhook and a W&B with credentials in their addresses: used, and found in nothing that a run writes."""

import base64
import contextlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import MICRO, tuneline

PASSWORD, TOKEN = "pa55word-hush", "t0ken-hush"
BASIC = "Basic " + base64.b64encode(f"user:{PASSWORD}".encode()).decode()
SECRETS = [secret.encode() for secret in (PASSWORD, TOKEN, BASIC)]


class Server(ThreadingHTTPServer):
    """A provider, or whatever else is asked for; it quotes its own address when it refuses."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str | None]] = []
        self.refuses = False
        self.url = f"http://user:{PASSWORD}@127.0.0.1:{self.server_port}/v1?token={TOKEN}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.path, self.headers["Authorization"]))
        message = {"role": "assistant", "content": "I heard"}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        completion = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
        quoted = f"{self.server.url} and {PASSWORD} are" if self.path.startswith("/v1") else "it is"
        error = {"error": {"message": f"{quoted} refused"}}
        body = json.dumps(error if self.server.refuses else completion).encode()
        self.send_response(400 if self.server.refuses else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # W&B's process may have given up
            self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        monkeypatch.setenv("TUNELINE_WEBHOOK", server.url.replace("/v1", "/hook"))
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", server.url.replace("/v1", ""))
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "5")
        for variable in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            monkeypatch.setenv(variable, str(tmp_path / variable))
            (tmp_path / variable).mkdir()
        yield server
        server.shutdown()


def write_recipe(file: Path, server: Server, *, synthesizes: bool = False) -> Path:
    price = "usd_per_million_input: 1, usd_per_million_output: 1, budget_usd: 5"
    target = f"{{name: other, provider: '{server.url}', model: m, {price}}}"
    text = MICRO.read_text() + f"  targets: [{target}]\n"
    if synthesizes:
        writer = f"{{provider: '{server.url}', model: m, {price}}}"
        text = text.replace(
            "  distractors", f"    - {{per_tool: 1, languages: [en], synthesize: {writer}}}\n  distractors"
        )
    file.write_text(text, encoding="utf-8")
    return file


def leaks(*folders: Path) -> dict[str, list[str]]:
    """File → the secrets in it, for all files of the folders that have any."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    found = {str(file): [s.decode() for s in SECRETS if s in file.read_bytes()] for file in files}
    return {file: secrets for file, secrets in found.items() if secrets}


def test_a_run_writes_and_shows_no_credentials(
    home: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, recipe = home / "runs/credentials", write_recipe(tmp_path / "micro.yaml", server)
    shutil.copytree(home / "runs/whole", run, ignore=shutil.ignore_patterns("evaluate", "report.html", "*.lock"))
    done = tuneline(home, "run", str(recipe), "--run", "credentials")
    assert ("/v1/chat/completions?token=" + TOKEN, BASIC) in server.seen
    shown = (
        tuneline(home, "runs", "show", "credentials", "--json").stdout
        + tuneline(home, "runs", "logs", "credentials").stdout
    )
    assert (run / "report.html").exists() and '"other"' in (run / "evaluate/manifest.json").read_text()
    assert '"http://***@127.0.0.1' in (run / "recipe.json").read_text()
    assert leaks(run, tmp_path / "WANDB_DIR") == {}
    assert not any(secret.decode() in done.stdout + done.stderr + shown for secret in SECRETS)
    again = tuneline(home, "evaluate", str(run / "recipe.json"), "--run", "credentials")
    assert "finished" in again.stdout + again.stderr
    shutil.rmtree(run / "evaluate")
    refused = tuneline(home, "evaluate", str(run / "recipe.json"), "--run", "credentials", code=2)
    assert "use your original recipe" in refused.stderr


def test_a_run_that_its_provider_refuses_shows_none(home: Path, server: Server, tmp_path: Path) -> None:
    server.refuses = True
    recipe = write_recipe(tmp_path / "refused.yaml", server, synthesizes=True)
    done = tuneline(home, "prepare", str(recipe), "--run", "refused", code=2)
    assert "http://***@127.0.0.1" in done.stderr
    assert leaks(home / "runs/refused", tmp_path / "WANDB_DIR") == {}
    assert not any(secret.decode() in done.stdout + done.stderr for secret in SECRETS)
