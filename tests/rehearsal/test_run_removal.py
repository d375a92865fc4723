"""`tuneline runs rm` and `gc` with `--modal`: the rules of this machine's runs, and nothing that a call needs."""

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MICRO as MICRO_FILE
from tests.rehearsal.conftest import Checkout, Stage, eventually
from tests.rehearsal.test_commands import working
from tests.runs import MICRO, make_run
from tuneline.rehearsal.session import Rehearsal
from tuneline.rehearsal.worker import NO_NAMESPACES_MESSAGE, can_make_namespaces

RUNS = ("old", "spare", "later")
OVERRIDE = ("--override", "nothing is demanded", "--modal")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A plane of its own, with the app deployed: `gc` removes of all runs."""
    if not can_make_namespaces():
        pytest.skip(NO_NAMESPACES_MESSAGE)
    folder = tmp_path_factory.mktemp("removal")
    with Rehearsal(folder) as rehearsal:
        stage = Stage(rehearsal, folder)
        stage.modal("deploy", "app.py")
        yield stage


@pytest.fixture
def runs(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The Volume with finished runs; `later` was trained from `old`."""
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    volume = stage.volume("runs")
    merged = MICRO.model_copy(update={"convert": MICRO.convert.model_copy(update={"format": "safetensors"})})
    from_old = MICRO.model_copy(update={"train": MICRO.train.model_copy(update={"init_from": "old"})})
    for name, recipe in zip(RUNS, (merged, merged, from_old), strict=True):
        make_run(volume / name, recipe)
    yield volume
    for name in RUNS:
        shutil.rmtree(volume / name, ignore_errors=True)


def weights(run: Path) -> set[str]:
    return {file.name for file in (run / "convert").iterdir() if file.suffix == ".gguf" or file.is_dir()}


def removes(stage: Stage, *words: str, code: int = 0) -> str:
    return stage.tuneline("runs", "rm", *words, "--modal", "--yes", code=code)


def test_kinds_go_and_what_stays_says_how_to_make_them_again(stage: Stage, runs: Path) -> None:
    before, files = weights(runs / "old"), list((runs / "old/convert").glob("*.gguf"))
    assert "merged" in before and len(files) > 1
    asked = stage.start(sys.executable, "-m", "tuneline", "runs", "rm", "old", "--modal", "--quantizations")
    out, _ = asked.communicate(timeout=120)  # nobody answers
    assert asked.returncode == 1 and "old/convert/base-F16.gguf" in out and "Remove them?" in out
    assert f"total {sum(file.stat().st_size for file in files)}" in out.replace("\u202f", " ")
    assert weights(runs / "old") == before
    assert "`tuneline runs resume old --modal` makes again" in removes(stage, "old", "--quantizations")
    assert weights(runs / "old") == {"merged"}
    removed = json.loads((runs / "old/convert/manifest.json").read_text())["removed"]
    assert removed.keys() == {file.name for file in files} and (runs / "old/evaluate/manifest.json").exists()
    assert "has none of quantizations" in removes(stage, "old", "--quantizations")
    refused = stage.tuneline("promote", "old", "--as", "gone", *OVERRIDE, code=2)
    assert "`tuneline runs resume old --until convert --modal` makes it again" in refused


def test_what_serves_or_is_needed_is_refused_and_gc_leaves_it(stage: Stage, runs: Path) -> None:
    stage.tuneline("promote", "old", "--as", "kept", *OVERRIDE)
    serves = removes(stage, "old", "--all", code=2)
    assert "old serves 'kept'; `tuneline promote OTHER --as kept --modal`" in serves
    stage.tuneline("promote", "spare", "--as", "kept", *OVERRIDE)
    assert "old is what `tuneline rollback kept --modal` goes back to" in removes(stage, "old", "--merged", code=2)
    assert "no such run on Modal" in removes(stage, "nobody", code=2)
    scratch = runs / "later/train/scratch"
    scratch.mkdir()
    (scratch / "checkpoint").write_text("c" * 1000)
    (runs / ".removed-x").mkdir()
    proposed = json.loads(stage.tuneline("runs", "gc", "--modal", "--json"))
    sizes = {item["path"]: item["bytes"] for item in proposed}
    assert sizes["later/train/scratch"] == 1000 and ".removed-x" in sizes
    assert not any(path.startswith(("old", "spare")) for path in sizes)  # one serves, one would after a rollback
    assert "nothing was removed; `tuneline runs gc --modal --yes`" in stage.tuneline("runs", "gc", "--modal")
    stage.tuneline("runs", "gc", "--modal", "--yes")
    assert not any((runs / path).exists() for path in sizes) and "merged" in weights(runs / "old")
    shutil.rmtree(stage.volume("policy") / "models")
    assert "later was trained from old" in removes(stage, "old", "--all", code=2)
    removes(stage, "later", "--all")
    removes(stage, "old", "--all")
    assert {path.name for path in runs.glob("*") if "old" in path.name or "later" in path.name} == set()


def test_a_run_is_not_removed_under_a_call(stage: Stage, endless: Checkout) -> None:
    process = endless.start("prepare", MICRO_FILE, "busy")
    run = stage.volume("runs") / "busy"
    eventually(lambda: working(stage, "prepare_cpu") and (run / "recipe.json").exists(), 120)
    assert "`tuneline runs cancel busy --modal` stops it" in removes(stage, "busy", "--all", code=1)
    # Its pipeline run is lost, its stage goes on: the lease is over, and the call is not.
    release = "from tuneline.volumes.leases import release; release('busy')"
    released = stage.start(sys.executable, "-c", release)
    assert released.wait(60) == 0
    assert "busy is being written by fc-" in removes(stage, "busy", "--all", code=1)
    assert (run / "recipe.json").exists() and working(stage, "prepare_cpu")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    eventually(lambda: not working(stage, "prepare_cpu"), 60)
    removes(stage, "busy", "--all")
    assert not run.exists()
