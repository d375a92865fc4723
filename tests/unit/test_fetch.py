"""Fetch: what is taken, from where, and what is refused. The hub is an HTTP server here; its client is the real one."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.core import artifacts
from tuneline.core.errors import BadRecipe, NotFound
from tuneline.core.paths import ROOT
from tuneline.core.pins import pin, read_pin
from tuneline.stages import fetch
from tuneline.stages.fetch import bases

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": bytes(range(256)) * 4096,
}


def recipe(base: str, revision: str | None = None) -> Recipe:
    data = {"sources": [{"grammar": "data/requests/train.yaml", "rows": 1}]}
    return Recipe.model_validate({"name": "r", "base": base, "revision": revision, "data": data})


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "models"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "my base"
    folder.mkdir()
    for name, content in {**FILES, "README.md": b"x", "make.py": b"x", "pytorch_model.bin": b"x"}.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_folder_is_copied_without_code_and_pickles(base: Path, models: Path, tmp_path: Path) -> None:
    made = fetch.fetch(recipe(str(base)), tmp_path / "run")
    assert set(made.manifest.files) == set(FILES)
    assert made.path.parent == models and made.path.name.startswith("my-base@")
    assert bases.open_base(recipe(str(base))).manifest.fingerprint == made.manifest.fingerprint


def test_runs_share_a_base_and_another_content_is_another_base(base: Path, models: Path, tmp_path: Path) -> None:
    first = fetch.fetch(recipe(str(base)), tmp_path / "run")
    assert fetch.fetch(recipe(str(base)), tmp_path / "other").manifest.started == first.manifest.started
    (base / "model.safetensors").write_bytes(b"other weights")
    assert (first.path / "model.safetensors").read_bytes() == FILES["model.safetensors"], "the source is still linked"
    with pytest.raises(NotFound, match="tuneline fetch"):
        bases.open_base(recipe(str(base)))
    assert fetch.fetch(recipe(str(base)), tmp_path / "run").path != first.path


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda f: (f / "model.safetensors").unlink(), "pickle"),
        (lambda f: (f / "config.json").write_text('{"model_type": "gpt2"}'), "gpt2"),
    ],
)
def test_a_folder_that_cannot_be_trained_is_refused_before_anything_is_written(
    base: Path, models: Path, tmp_path: Path, spoil: Any, says: str
) -> None:
    spoil(base)
    with pytest.raises(BadRecipe, match=says):
        fetch.fetch(recipe(str(base)), tmp_path / "run")
    assert not models.exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "revision", "error", "says"),
    [
        ("tinny", None, NotFound, "tinny"),
        ("/no/such/folder", None, NotFound, "/no/such/folder"),
        ("./no/such", None, NotFound, "no/such"),
        ("meta-llama/Llama-3.2-1B", None, BadRecipe, "40 hex"),
        ("meta-llama/Llama-3.2-1B", "main", BadRecipe, "40 hex"),
        ("meta-llama/Llama-3.2-1B", COMMIT[:12], BadRecipe, "40 hex"),
    ],
)
def test_a_base_that_is_nowhere_or_not_pinned(
    models: Path, tmp_path: Path, name: str, revision: str | None, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        fetch.fetch(recipe(name, revision), tmp_path / "run")
    assert not models.exists() and not (tmp_path / "run").exists()


def test_the_base_is_checked_without_torch() -> None:
    code = (
        "import sys; from tuneline.stages.fetch import bases; from tuneline.configs.recipe import Recipe\n"
        "r = Recipe.model_validate({'base': 'tinny', 'data': {'sources': [{'path': 'x'}]}})\n"
        "try: bases.locate_base(r)\n"
        "except LookupError: pass\n"
        "else: sys.exit('accepted')\n"
        "heavy = {'torch', 'transformers', 'numpy', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


class Hub:
    """Speaks the part of the hub's API that the client calls: model info, tree, HEAD and GET of files with ranges."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, str]] = []  # repository, file, range
        self.drop_once, self.stall_once = {"acme/dropped"}, {"acme/slow"}
        self.keys: set[str | None] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *_: Any) -> None:
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"
        threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def files(self, repository: str) -> dict[str, bytes]:
        files = dict(FILES)
        if repository == "acme/pickles":
            files["pytorch_model.bin"] = files.pop("model.safetensors")
        if repository in ("acme/dropped", "acme/slow"):
            files["model.safetensors"] *= 24  # the client keeps what came in whole pieces of 10 MB
        if repository == "acme/gpt":
            files["config.json"] = b'{"model_type": "gpt2"}'
        if repository in ("acme/clutter", "acme/nested"):
            files |= {
                "original/weights.safetensors": b"other",
                "tokenizer.pkl": b"pickle",
                "tokenizer_x.py": b"import os",
            }
        if repository == "acme/nested":
            del files["model.safetensors"]
        return files | {"modeling.py": b"import os", "README.md": b"x"}

    def answer(self, http: BaseHTTPRequestHandler, *, body: bool) -> None:
        self.keys.add(http.headers["Authorization"])
        path = http.path.partition("?")[0].strip("/").split("/")
        if path[0] == "api":
            return self.describe(http, "/".join(path[2:4]), path[4])
        repository, name = "/".join(path[:2]), "/".join(path[4:])
        content = self.files(repository)[name]
        if repository == "acme/wrong" and name == "model.safetensors":
            content = content[:-1] + b"!"
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(self.files(repository)[name]).hexdigest()}"'}
        start = int((http.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers["Content-Length"] = str(len(content) - start)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.head(http, 206 if start else 200, headers)
        if body:
            self.sent.append((repository, name, http.headers["Range"] or ""))
            self.write(http, repository, name, content[start:])

    def write(self, http: BaseHTTPRequestHandler, repository: str, name: str, content: bytes) -> None:
        if name == "model.safetensors" and repository in self.drop_once:
            self.drop_once.remove(repository)
            http.wfile.write(content[: len(content) // 2])
            http.close_connection = True
            http.connection.shutdown(2)
            return
        if name == "model.safetensors" and repository in self.stall_once:
            self.stall_once.remove(repository)
            http.wfile.write(content[: len(content) // 2])
            time.sleep(60)
        http.wfile.write(content)

    def describe(self, http: BaseHTTPRequestHandler, repository: str, what: str) -> None:
        refusals = {
            "acme/gone": (404, "RepoNotFound", ""),
            "acme/private": (401, "RepoNotFound", ""),
            "acme/badtoken": (401, "", "Invalid credentials in Authorization header"),
            "acme/gated": (403, "GatedRepo", ""),
            "acme/norevision": (404, "RevisionNotFound", ""),
            "acme/down": (500, "", ""),
        }
        if repository in refusals:
            status, code, message = refusals[repository]
            self.head(http, status, {"X-Error-Code": code, "X-Error-Message": message, "Content-Length": "0"})
            return
        listed: list[dict[str, Any]] = []
        for name, content in self.files(repository).items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            sha = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            lfs = {"lfs": {**sha, "oid": sha["sha256"]}} if name.endswith((".safetensors", ".bin")) else {}
            shared = {"size": len(content), **lfs}
            info, tree = {"rfilename": name, "blobId": blob}, {"type": "file", "path": name, "oid": blob}
            listed.append({**shared, **(info if what == "revision" else tree)})
        answer = {"id": repository, "sha": COMMIT, "siblings": listed} if what == "revision" else listed
        text = json.dumps(answer).encode()
        self.head(http, 200, {"Content-Length": str(len(text)), "Content-Type": "application/json"})
        http.wfile.write(text)

    def head(self, http: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        http.send_response(status)
        for name, value in headers.items():
            if value:
                http.send_header(name, value)
        http.end_headers()


FETCH_ALL = """
import json, sys, traceback
from pathlib import Path
from tuneline.configs.recipe import Recipe
from tuneline.stages import fetch
from tuneline.stages.fetch import hub_requests
hub_requests.FIRST_WAIT_S = 0.01
results = {}
for name in sys.argv[3:]:
    recipe = Recipe.model_validate({"base": name, "revision": sys.argv[1], "data": {"sources": [{"path": "x"}]}})
    try:
        made = fetch.fetch(recipe, Path(sys.argv[2]))
        results[name] = ["made", str(made.path)]
    except Exception as error:
        results[name] = [type(error).__name__, str(error)]
print(json.dumps(results))
"""
MADE = ("ok", "dropped", "clutter")
REFUSED = ("wrong", "gone", "private", "badtoken", "gated", "norevision", "down", "pickles", "nested", "gpt")


def command(hub: str, folder: Path, *names: str) -> tuple[list[str], dict[str, str]]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(folder / "hf"), "TUNELINE_MODELS": str(folder / "models")}
    environment |= {
        "TUNELINE_CACHE": str(folder / "cache"),
        "HF_TOKEN": "hf_secret",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return [sys.executable, "-c", FETCH_ALL, COMMIT, str(folder / "run"), *names], environment


def run(hub: str, folder: Path, *names: str) -> tuple[dict[str, list[str]], str]:
    words, environment = command(hub, folder, *names)
    done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    server = Hub()
    yield server
    server.httpd.shutdown()


@pytest.fixture(scope="module")
def fetched(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[str]], str, Path]:
    folder = tmp_path_factory.mktemp("hub")
    results, output = run(hub.url, folder, *(f"acme/{case}" for case in (*MADE, *REFUSED)))
    return {name.removeprefix("acme/"): result for name, result in results.items()}, output, folder


Fetched = tuple[dict[str, list[str]], str, Path]


def test_a_hub_base_is_whole_and_has_no_leftovers(fetched: Fetched) -> None:
    kind, path = fetched[0]["ok"]
    assert kind == "made", path
    found = {name: (Path(path) / name).read_bytes() for name in artifacts.open_artifact(Path(path)).manifest.files}
    assert {name: found.get(name) for name in FILES} == FILES
    assert not [name for name in found if name.startswith(".cache") or name.endswith(".py")]


def test_no_pickle_code_or_subfolder_is_taken(fetched: Fetched) -> None:
    kind, path = fetched[0]["clutter"]
    assert kind == "made", path
    assert set(artifacts.open_artifact(Path(path)).manifest.files) == set(FILES)


def test_a_dropped_connection_goes_on_where_it_broke(hub: Hub, fetched: Fetched) -> None:
    assert fetched[0]["dropped"][0] == "made", fetched[0]["dropped"]
    ranges = [r for repository, name, r in hub.sent if (repository, name) == ("acme/dropped", "model.safetensors")]
    assert len(ranges) == 2 and ranges[1].startswith("bytes=")


def test_a_wrong_file_is_refused_and_removed(fetched: Fetched) -> None:
    kind, message = fetched[0]["wrong"]
    assert kind == "StageFailed" and "model.safetensors" in message
    left = list((fetched[2] / "models").glob("acme--wrong@*"))
    assert not [f for folder in left for f in (folder / "manifest.json", folder / "model.safetensors") if f.exists()]


@pytest.mark.parametrize(
    ("case", "kind", "says"),
    [
        ("gone", "NotFound", "acme/gone"),
        ("private", "NotFound", "HF_TOKEN"),
        ("gated", "", "HF_TOKEN"),
        ("down", "StageFailed", "same command"),
        ("pickles", "BadRecipe", "pickle"),
        ("norevision", "", "acme/norevision"),
    ],
)
def test_what_the_hub_refuses_says_what_to_do(fetched: Fetched, case: str, kind: str, says: str) -> None:
    found, message = fetched[0][case]
    assert found == kind or (not kind and found != "made"), message
    assert says in message


def test_weights_only_in_a_subfolder_are_no_weights(fetched: Fetched) -> None:
    assert fetched[0]["nested"][0] == "BadRecipe", fetched[0]["nested"]


def test_another_family_is_refused(fetched: Fetched) -> None:
    assert fetched[0]["gpt"][0] == "BadRecipe", fetched[0]["gpt"]


def test_a_bad_token_is_named(fetched: Fetched) -> None:
    kind, message = fetched[0]["badtoken"]
    assert "HF_TOKEN" in message, (kind, message)


def test_a_refusal_leaves_no_draft(fetched: Fetched) -> None:
    models = fetched[2] / "models"
    assert not list(models.glob("acme--gone@*")), list(models.iterdir())


def test_no_network_is_explained(tmp_path: Path) -> None:
    results, _ = run("http://127.0.0.1:9", tmp_path, "acme/ok")
    assert results["acme/ok"][0] == "StageFailed", results


def test_the_token_goes_to_the_hub_and_nowhere_else(hub: Hub, fetched: Fetched) -> None:
    assert "Bearer hf_secret" in hub.keys
    written = [f.read_bytes() for f in fetched[2].rglob("*") if f.is_file()]
    assert "hf_secret" not in fetched[1] and not any(b"hf_secret" in content for content in written)


def test_a_killed_fetch_keeps_what_it_has_and_goes_on_in_the_middle_of_a_file(hub: Hub, tmp_path: Path) -> None:
    words, environment = command(hub.url, tmp_path, "acme/slow")
    process = subprocess.Popen(words, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    part = tmp_path / "models" / f"acme--slow@{COMMIT[:12]}" / ".cache" / "model.safetensors.part"
    folder = part.parents[1]
    small = set(FILES) - {"model.safetensors"}
    while time.monotonic() < deadline and not (
        part.exists() and part.stat().st_size and all((folder / name).exists() for name in small)
    ):
        time.sleep(0.02)
    process.kill()
    process.wait()
    kept = part.stat().st_size
    assert not (folder / "manifest.json").exists() and not (folder / "model.safetensors").exists()
    results, _ = run(hub.url, tmp_path, "acme/slow")
    assert results["acme/slow"][0] == "made", results
    asked = [(name, r) for repository, name, r in hub.sent if repository == "acme/slow"]
    assert asked[-1] == ("model.safetensors", f"bytes={kept}-") and kept > 1e6
    assert len(asked) == len(FILES) + 1, "what was whole was fetched again"
    assert (folder / "model.safetensors").read_bytes() == hub.files("acme/slow")["model.safetensors"]


def test_a_base_is_pinned_at_its_first_verified_fetch(
    fetched: Fetched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_MODELS", str(fetched[2] / "models"))
    assert read_pin("acme/ok") == read_pin("Acme/OK") == COMMIT
    assert read_pin("acme/wrong") is None and read_pin("acme/gated") is None, "pinned without being verified"
    pin("acme/ok", "f" * 40)
    assert read_pin("acme/ok") == COMMIT, "a later fetch moved the pin"
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    (tmp_path / "r.yaml").write_text(f"base: acme/ok\ndata: {{sources: [{{path: {rows}}}]}}\n")
    assert bases.open_base(load_recipe(tmp_path / "r.yaml")).path.name == f"acme--ok@{COMMIT[:12]}"
    (tmp_path / "r.yaml").write_text(f"base: acme/other\ndata: {{sources: [{{path: {rows}}}]}}\n")
    with pytest.raises(BadRecipe, match="40 hex"):
        bases.locate_base(load_recipe(tmp_path / "r.yaml"))


def test_models_download_fetches_pins_and_is_told_the_latest_commit(hub: Hub, tmp_path: Path) -> None:
    _, environment = command(hub.url, tmp_path)
    words = [sys.executable, "-m", "tuneline", "models", "download", "acme/ok"]

    def download(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*words, *more], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)

    done = download()
    assert done.returncode == 0 and COMMIT in done.stdout and "MB/s" in done.stdout, done.stderr
    assert (tmp_path / "models" / f"acme--ok@{COMMIT[:12]}" / "manifest.json").exists()
    environment["HF_ENDPOINT"] = "http://127.0.0.1:9"  # what is here needs no network
    again = download()
    assert again.returncode == 0 and "whole" in again.stdout, again.stderr
    there = download("--revision", "v2")  # a tag only the hub knows
    assert there.returncode == 1 and "cannot reach" in there.stderr
