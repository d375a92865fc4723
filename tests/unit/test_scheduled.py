"""What the scheduled evaluation calls worse, what it compares with, and how many cores it takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.runs import MICRO, make_evaluate, make_run, remove
from tuneline.cli import app
from tuneline.configs.cloud import Endpoint
from tuneline.configs.recipe import RECIPE
from tuneline.core.ledger import read_ledger
from tuneline.endpoints import promotion, scheduled_evaluation
from tuneline.endpoints.promotion import promote
from tuneline.endpoints.scheduled_evaluation import _read_newest_scores, _recipe_of_version, find_regressions
from tuneline.engines.llama_cpp.threads import ONE_THREAD_BYTES, limit_threads
from tuneline.volumes.endpoint_container import make_engine_pool


def test_what_fell_is_told_by_what_it_is_held_against() -> None:
    references = {"last": 0.90, "promoted": 0.81, "baseline": 0.85, "candidate": 0.99}
    found = find_regressions(_share(0.80), {name: _share(share) for name, share in references.items()})
    assert found == ["routing: 0.800, was 0.900 (last)", "routing: 0.800, was 0.850 (baseline)"]
    assert find_regressions(_share(0.80), {"last": None, "promoted": _share(0.80)}) == []


def _share(share: float) -> dict[str, dict[str, float]]:
    return {"routing": {"name_accuracy": share}}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("runs", "models", "policy", "scores"):
        monkeypatch.setenv(f"TUNELINE_{name.upper()}", str(tmp_path / name))
    return tmp_path / "runs"


def test_a_candidate_that_is_damaged_or_of_other_files_is_passed_over(runs: Path) -> None:
    make_run(runs / "promoted")
    assert _read_newest_scores("promoted") is None
    for name, share in (("sound", 0.7), ("stale", 0.8), ("damaged", 0.9)):
        remove(make_run(runs / name), "evaluate")
        row = {"suite": "routing", "target": "tuned-Q4_K_M", "name_accuracy": share}
        make_evaluate(runs / name, metrics={"scoreboard": [row]})
    remove(runs / "stale", "convert")
    (runs / "stale/convert").mkdir()
    (runs / "stale/convert/manifest.json").write_text((runs / "sound/convert/manifest.json").read_text())
    (runs / "damaged/evaluate/manifest.json").write_text("{")
    found = _read_newest_scores("promoted")
    assert found and found["routing"]["name_accuracy"] == 0.7


def test_it_asks_as_the_version_serves_whatever_the_recipe_says_by_now(runs: Path) -> None:
    run = make_run(
        runs / "demo", MICRO.model_copy(update={"compute": MICRO.compute.model_copy(update={"threads": 64})})
    )
    version = promotion.promote("demo", "router")
    changed = MICRO.model_copy(update={"serve": MICRO.serve.model_copy(update={"context": 9, "form": "merged"})})
    (run / RECIPE).write_text(changed.model_dump_json())
    recipe = _recipe_of_version(version)
    assert (recipe.serve.form, recipe.serve.context, recipe.compute.threads) == ("gguf", MICRO.serve.context, None)


def test_llama_cpp_takes_no_more_threads_than_there_are_cores(tmp_path: Path) -> None:
    with (tmp_path / "large.gguf").open("wb") as file:
        file.truncate(ONE_THREAD_BYTES)
    assert limit_threads(tmp_path / "large.gguf", 512) == len(os.sched_getaffinity(0))
    assert limit_threads(tmp_path / "large.gguf", 1) == 1


EVALUATE = """
import contextlib, os, sys
from tuneline.configs.cloud import Schedule
from tuneline.endpoints import scheduled_evaluation
from tuneline.volumes import stage_container
stage_container.synchronized = lambda **_: contextlib.nullcontext()  # there is no Modal
stage_container.commit = lambda name: None
Schedule.cores = 1
scheduled_evaluation.evaluate_all = lambda publish: [{"cores": len(os.sched_getaffinity(0))}]
stage_container.evaluate_promoted()
"""


def test_a_container_uses_the_cores_that_it_pays_for(tmp_path: Path) -> None:
    """It sees all cores of its machine."""
    environment = os.environ | {"TUNELINE_SCORES": str(tmp_path)}
    command = [sys.executable, "-c", EVALUATE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == '{"cores": 1}\n'
    assert {line.kind for line in read_ledger(tmp_path)} == {"schedule"} and sum_usd_of(tmp_path) > 0
    assert make_engine_pool(Endpoint(cores=0.5)).threads == 1 and make_engine_pool(Endpoint(cores=3)).threads == 3


def sum_usd_of(folder: Path) -> float:
    return sum(line.usd for line in read_ledger(folder))


def scored(folder: Path, name: str, at: str, right: float, *worse: str) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    row = {"n": 512, "name_accuracy": right, "name_low": right - 0.02, "name_high": right + 0.02}
    score = {
        "name": name,
        "at": f"{at}T06:00:00+00:00",
        "run": "a",
        "version": 3,
        "suites": {"far": row},
        "worse": worse,
    }
    (folder / name / f"{at}.json").write_text(json.dumps(score))


def test_scores_are_shown_over_time_with_regressions_and_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_SCORES", str(tmp_path / "scores"))
    runner = CliRunner(env={"COLUMNS": "120"})
    assert "no scheduled evaluation yet" in runner.invoke(app, ["scores"]).output
    scored(tmp_path / "scores", "router", "2026-11-23", 0.97)
    scored(tmp_path / "scores", "router", "2026-11-30", 0.91, "far: 0.910, was 0.970 (last)")
    scored(tmp_path / "scores", "other", "2026-11-30", 0.5)
    (tmp_path / "scores/router/2026-12-01.json").write_text("{")
    table = runner.invoke(app, ["scores"]).output.replace("\u202f", " ")
    rows = [line.split() for line in table.splitlines() if line.startswith("router")]
    assert [row[1] for row in rows] == ["2026-11-23", "2026-11-30"] and ["worse" in row for row in rows] == [
        False,
        True,
    ]
    assert "91.0 % (89.0–93.0)" in table and "2026-11-30 router: far: 0.910, was 0.970 (last)" in table
    found = json.loads(runner.invoke(app, ["scores", "router", "--json"]).output)
    assert [(score["right_tool"], score["n"], score["is_worse"]) for score in found] == [
        (0.97, 512, False),
        (0.91, 512, True),
    ]


def test_an_evaluation_that_failed_is_kept_and_compared_with_by_nobody(runs: Path) -> None:
    run, scores = make_run(runs / "a"), runs.parent / "scores"
    promote("a", "router")
    (run / "convert/tuned-Q4_K_M.gguf").write_text("other bytes")
    scheduled_evaluation.evaluate_all()
    (score,) = json.loads(CliRunner().invoke(app, ["scores", "--json"]).output)
    assert "tuned-Q4_K_M.gguf" in score["error"] and score["run"] == "a" and not score["n"]
    assert "could not be evaluated" in CliRunner().invoke(app, ["scores"]).output.replace("\n", " ")
    scored(scores, "router", "2020-01-01", 0.97)
    failed = scores / "router/2020-01-02.json"
    failed.write_text(json.dumps({"name": "router", "at": "2020-01-02T06:00:00+00:00", "error": "lost"}))
    last = scheduled_evaluation._read_last_score("router")
    assert last is not None and last["far"]["name_accuracy"] == 0.97
