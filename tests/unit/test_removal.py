"""`tuneline runs rm` and `gc`: what goes, what stays, what is refused, and that nobody trusts what is missing."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.runs import MICRO, make_run, remove
from tuneline.cli import app
from tuneline.configs import gateway
from tuneline.configs.gateway import parse_gateway
from tuneline.configs.recipe import Recipe
from tuneline.core.artifacts import open_artifact, verify_files
from tuneline.core.errors import BadRequest, Locked, NotFound
from tuneline.core.locks import pipeline_lock
from tuneline.endpoints import removable_runs
from tuneline.endpoints.promotion import promote
from tuneline.endpoints.run_list import list_runs
from tuneline.stages.line import find_finished
from tuneline.stages.report import write_report
from tuneline.stages.run_artifacts import open_stage
from tuneline.stages.runs.incomplete import find_incomplete, reopen_incomplete

LINE = ("fetch", "prepare", "train", "convert", "evaluate")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("runs", "models", "policy", "scratch", "cache"):
        monkeypatch.setenv(f"TUNELINE_{name.upper()}", str(tmp_path / name))
    return tmp_path / "runs"


def tuneline(*words: str, answer: str = "") -> str:
    done = CliRunner(env={"COLUMNS": "160"}).invoke(app, ["runs", *words], input=answer)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def with_merged() -> Recipe:
    return MICRO.model_copy(update={"convert": MICRO.convert.model_copy(update={"format": "safetensors"})})


def test_kinds_go_and_manifests_scores_and_lineage_stay(runs: Path) -> None:
    run = make_run(runs / "a", with_merged())
    before = open_stage(run, "evaluate").manifest
    assert "base-F16.gguf" in tuneline("rm", "a", "--quantizations", answer="n\n")
    assert (run / "convert/base-F16.gguf").exists()
    size = sum(file.stat().st_size for file in (run / "convert").glob("*.gguf"))
    assert f"total {size}" in tuneline("rm", "a", "--quantizations", "--yes").replace("\u202f", " ")
    assert not list(run.glob("convert/*.gguf")) and (run / "convert/merged/model.safetensors").exists()
    tuneline("rm", "a", "--yes")
    assert not (run / "convert/merged").exists()
    assert open_stage(run, "evaluate").manifest == before and list_runs()[0].state == "finished"
    assert write_report(run).exists()
    assert "has none of" in tuneline("rm", "a", "--yes")


def test_nobody_trusts_what_is_missing(runs: Path) -> None:
    run = make_run(runs / "a")
    tuneline("rm", "a", "--yes")
    again = r"was removed to free space; `tuneline runs resume a --until convert` makes it again"
    with pytest.raises(NotFound, match=again):
        verify_files(open_artifact(run / "convert"), "tuned-Q4_K_M.gguf")
    with pytest.raises(NotFound, match=again):
        promote("a", "router")
    for words in (["chat", "a", "hello"], ["serve", "a"]):
        assert again.replace(r"\.", ".") in str(CliRunner().invoke(app, words).exception)


def test_a_stage_that_needs_what_is_missing_has_it_made_again(runs: Path) -> None:
    run = make_run(runs / "a")
    tuneline("rm", "a", "--yes")
    assert find_incomplete(run, LINE) == []  # evaluated: nothing needs the files
    assert find_incomplete(run, LINE[:4]) == ["convert"]  # asked for by name
    remove(run, "evaluate")
    assert find_incomplete(run, LINE) == ["convert"]
    reopen_incomplete(run, LINE)
    assert find_finished("convert", MICRO, run) is None and list_runs()[0].state == "interrupted"


def test_a_run_that_serves_could_serve_or_is_in_work_is_refused(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old", "new", "newest"):
        make_run(runs / name)
        promote(name, "router")
    with pytest.raises(BadRequest, match="newest serves 'router'; `tuneline promote OTHER --as router`"):
        tuneline("rm", "newest", "--all", "--yes")
    with pytest.raises(BadRequest, match="new is what `tuneline rollback router` goes back to"):
        tuneline("rm", "new", "--checkpoints", "--yes")
    settings = parse_gateway("models: {m: {baseline: {url: 'http://127.0.0.1:1/v1', model: old}}}", gateway.FILE)
    monkeypatch.setattr(removable_runs, "read_gateway", lambda: settings)
    with pytest.raises(BadRequest, match=r"configs/gateway.yaml names it in models\.m\.baseline"):
        tuneline("rm", "old", "--all", "--yes")
    monkeypatch.undo()
    monkeypatch.setenv("TUNELINE_RUNS", str(runs))
    monkeypatch.setenv("TUNELINE_POLICY", str(runs.parent / "policy"))
    with pipeline_lock(runs / "old", "evaluate"), pytest.raises(Locked, match="`tuneline runs cancel old` stops it"):
        tuneline("rm", "old", "--all", "--yes")
    assert all((runs / name / "convert/base-F16.gguf").exists() for name in ("old", "new", "newest"))


def test_a_run_promoted_in_another_policy_folder_is_refused_from_here(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "new"):
        make_run(runs / name, with_merged())
        CliRunner().invoke(app, ["promote", name, "--as", "router"], catch_exceptions=False)
    elsewhere = tmp_path / "else where"
    monkeypatch.setenv("TUNELINE_POLICY", str(elsewhere))
    again = f"`TUNELINE_POLICY={tmp_path / 'policy'} tuneline promote OTHER --as router`"
    with pytest.raises(BadRequest, match=f"new serves 'router', promoted in {tmp_path / 'policy'}; {again}"):
        tuneline("rm", "new", "--all", "--yes")
    with pytest.raises(BadRequest, match="old is what `TUNELINE_POLICY=.* tuneline rollback router` goes back to"):
        tuneline("rm", "old", "--yes")
    assert "nothing to remove" in tuneline("gc", "--yes") and list((runs / "old/convert").glob("tuned-*.gguf"))
    (tmp_path / "policy").rename(tmp_path / "gone")  # nothing serves any more
    tuneline("rm", "new", "--all", "--yes")
    assert not (runs / "new").exists()


def test_all_removes_the_run_unless_another_came_from_it(runs: Path) -> None:
    make_run(runs / "a")
    later = make_run(runs / "b", MICRO.model_copy(update={"train": MICRO.train.model_copy(update={"init_from": "a"})}))
    with pytest.raises(BadRequest, match="b was trained from a"):
        tuneline("rm", "a", "--all", "--yes")
    assert "Aborted" in tuneline("rm", "b", "--all", answer="n\n") and later.exists()
    tuneline("rm", "b", "--all", "--yes")
    tuneline("rm", "a", "--all", "--yes")
    assert list_runs() == [] and not list(runs.iterdir())


def test_gc_proposes_with_sizes_and_removes_only_when_told(runs: Path) -> None:
    done = make_run(runs / "done", with_merged())
    in_work = make_run(runs / "in-work")
    remove(in_work, "evaluate")
    served = make_run(runs / "served")
    promote("served", "router")
    for run, stage in ((done, "train"), (in_work, "evaluate")):
        (run / stage / "scratch").mkdir(parents=True)
        (run / stage / "scratch/checkpoint").write_text("c" * 1000)
    (in_work / "evaluate/scratch/place").write_text("b" * 32)
    for folder in ("scratch/" + "a" * 32, "scratch/" + "b" * 32, "runs/.removed-x"):
        (runs.parent / folder).mkdir(parents=True)
    proposed = {Path(item["path"]): item for item in json.loads(tuneline("gc", "--json"))}
    assert proposed[done / "train/scratch"]["bytes"] == 1000
    gone = {"train/scratch", "convert/merged", "convert/base-F16.gguf", "convert/tuned-F16.gguf"}
    others = {runs.parent / "scratch" / ("a" * 32), runs / ".removed-x"}
    assert proposed.keys() == {done / name for name in gone} | others
    assert "nothing was removed" in tuneline("gc") and all(path.exists() for path in proposed)
    tuneline("gc", "--yes")
    assert not any(path.exists() for path in proposed)
    assert (done / "convert/tuned-Q4_K_M.gguf").exists() and (served / "convert/base-F16.gguf").exists()
    assert (runs.parent / "scratch" / ("b" * 32)).exists() and (in_work / "evaluate/scratch/checkpoint").exists()
    promote("done", "other")  # what it serves is there, and is what was evaluated
    assert "nothing to remove" in tuneline("gc")


def test_nothing_outside_of_a_run_is_removed_whatever_a_downloaded_run_says(runs: Path) -> None:
    run, outside = make_run(runs / "a"), runs.parent / "outside"
    (outside / "scratch").mkdir(parents=True)
    (outside / "scratch/precious").write_text("mine")
    (run / "linked").symlink_to(outside)
    (run / "convert/merged").symlink_to(outside)
    (run / "train/scratch").mkdir()
    (run / "train/scratch/place").write_text(str(outside))
    (runs.parent / "scratch").mkdir()
    tuneline("gc", "--yes")
    tuneline("rm", "a", "--yes")
    tuneline("rm", "a", "--all", "--yes")
    assert not run.exists() and (outside / "scratch/precious").read_text() == "mine"
