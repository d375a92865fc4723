"""What a command of Modal's client needs, and what is refused before anything is built for it."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tuneline.configs.cloud import Cloud
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.paths import ROOT
from tuneline.volumes import entrypoints, run_state
from tuneline.volumes.command_line import read_needed_functions

RECIPES = ROOT / "configs/recipes"
MICRO = str(RECIPES / "micro.yaml")
COMMIT = "0123456789" * 4
CPU_STAGES = {(stage, False) for stage in ("fetch", "prepare", "train", "convert", "evaluate")}


@pytest.mark.parametrize(
    ("words", "stages"),
    [
        (["run", "app.py::pipeline", "--recipe", MICRO], CPU_STAGES),
        (
            ["run", "--detach", "app.py::train", f"--recipe={MICRO}"],
            CPU_STAGES - {("convert", False), ("evaluate", False)},
        ),
        (["run", "-q", "--env", "dev", "/x/app.py::evaluate", "--only", "--recipe", MICRO], {("evaluate", False)}),
        (["run", "app.py::preflight", "--run", "r", "--only", "--recipe", MICRO], {("preflight", False)}),
        (
            ["run", "app.py::train", "--only", "--recipe", MICRO, "--set", "compute.train.gpu=A10"],
            {("train", True)},
        ),
        (
            ["run", "app.py::sweep", "--recipe", MICRO, "--set", "train.rank=4,8", "--until", "prepare"],
            {("fetch", False), ("prepare", False)},
        ),
        (["deploy", "app.py"], None),
        (["run", "app.py::train", "--help"], None),
        (["run", "app.py::other"], None),
    ],
)
def test_the_words_say_which_functions_are_called(words: list[str], stages: set[tuple[str, bool]] | None) -> None:
    needed = read_needed_functions(["modal", *words])
    assert needed.stages == stages and needed.all is (stages is None)
    if ("preflight", False) in (stages or ()):
        assert needed.includes("train", on_gpu=False) and not needed.includes("train", on_gpu=True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A hub that answers HEAD requests; repository → the reason of its refusal (X-Error-Code)."""
    refusals: dict[str, str] = {}

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            assert "authorization" not in self.headers
            repo, _, file = self.path.strip("/").partition("/resolve/")
            assert file == f"{COMMIT}/config.json"
            self.send_response(401 if repo in refusals else 200)
            if repo in refusals:
                self.send_header("X-Error-Code", refusals[repo])
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield refusals
        server.shutdown()


def command(folder: Path, base: str, more: str = f"revision: '{COMMIT}'") -> list[str]:
    recipe = folder / "r.yaml"
    recipe.write_text(f"base: {base}\n{more}\ndata: {{sources: [{{path: {ROOT / 'data/requests/train.yaml'}}}]}}\n")
    return ["modal", "run", "app.py::train", "--recipe", str(recipe)]


@pytest.mark.parametrize(
    ("reason", "message"),
    [("GatedRepo", "is gated, and no token is sent"), ("RevisionNotFound", "has no such commit"), ("", "")],
)
def test_a_base_that_cannot_be_fetched_there_is_refused_here(
    hub: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], reason: str, message: str
) -> None:
    if not reason:
        assert read_needed_functions(command(tmp_path, "some/llama")).stages
        return
    hub["some/llama"] = reason
    with pytest.raises(SystemExit) as ended:
        read_needed_functions(command(tmp_path, "some/llama"))
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_gated_base_is_taken_with_its_secret(
    hub: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub["some/llama"] = "GatedRepo"
    monkeypatch.setattr("tuneline.configs.cloud.cloud", lambda: Cloud(secrets=("huggingface",)))
    assert read_needed_functions(command(tmp_path, "some/llama")).stages


def test_without_a_network_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert read_needed_functions(command(tmp_path, "some/llama")).stages


@pytest.mark.parametrize(
    ("base", "more", "message"),
    [
        ("some/llama", "", "a hub id needs its commit"),
        (str(ROOT / "data/tiny"), "", "a folder on this machine"),
        ("tiny", "compute: {evaluate: {gpu: A10}}", "would be idle"),
        ("tiny", "train: {rnk: 8}", "did you mean 'rank'"),
    ],
)
def test_what_cannot_run_there_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], base: str, more: str, message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        read_needed_functions(command(tmp_path, base, more))
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_what_a_training_will_not_reach_is_said_before_it_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_state, "_list_paths", lambda folder: [])
    recipe = load_recipe(Path(MICRO), ["train.warmup_steps=30"])
    entrypoints._print_plan(recipe, "r", ["fetch", "prepare", "train"])
    assert "warning: train.warmup_steps: 30: the training has 10 steps" in capsys.readouterr().err


def test_a_misspelled_variable_ends_the_command_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNELINE_CALL_HOUR", "20")
    words = ["modal", "run", "app.py::train", "--recipe", str(ROOT / "configs/recipes/micro.yaml")]
    with pytest.raises(SystemExit) as ended:
        read_needed_functions(words)
    assert ended.value.code == 2 and "did you mean TUNELINE_CALL_HOURS?" in capsys.readouterr().err
