"""Fetch from a hub by its real client: what is taken, what is refused, and what an interruption costs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_peer import COMMIT, FILES, Hub
from tuneline.configs.recipe_file import load_recipe
from tuneline.core import artifacts
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import ROOT
from tuneline.core.pins import pin, read_pin
from tuneline.stages.fetch import bases

FETCH_ALL = """
import json, sys, traceback
from pathlib import Path
from tuneline.configs.recipe import Recipe
from tuneline.stages import fetch
from tuneline.stages.checkpoints.expected_weights import expected_weights
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
    assert again.returncode == 0 and "complete" in again.stdout, again.stderr
    there = download("--revision", "v2")  # a tag only the hub knows
    assert there.returncode == 1 and "cannot reach" in there.stderr
