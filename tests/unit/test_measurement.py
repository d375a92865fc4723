"""A figure that is shown says where and when it was measured, by what, and how much it varies."""

import statistics
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.runs import MICRO, PASSED, make_convert, make_evaluate, make_prepare, make_run, make_train, remove
from tests.unit.test_compare import answered
from tuneline.cli import app
from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.machine import Machine
from tuneline.stages.evaluate.engine_versions import describe_engine
from tuneline.stages.evaluate.scoring.scoreboard import all_tables
from tuneline.stages.evaluate.targets import REFERENCE
from tuneline.stages.evaluate.verdicts.measurement import NOT_REPEATED, describe_measurement, describe_variation
from tuneline.stages.evaluate.verdicts.repetitions import measure_spread
from tuneline.stages.report import write_report
from tuneline.stages.report.model_card import write_card
from tuneline.stages.run_artifacts import open_stage

TARGET = "tuned-Q4_K_M"
ENGINES = {
    "base": {"name": "llama.cpp", "version": "1.2", "threads": 8},
    TARGET: {"name": "llama.cpp", "version": "1.2", "threads": 8},
    REFERENCE: {"name": "vLLM", "version": "0.32", "threads": 0},
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("runs", "models", "policy", "cache"):
        monkeypatch.setenv(f"TUNELINE_{name.upper()}", str(tmp_path / name))
    monkeypatch.setattr(artifacts, "describe_machine", lambda: Machine(processor="Planted 9000", cores=8))
    return tmp_path / "runs"


def with_seed(seed: int, **train: object) -> Recipe:
    return MICRO.model_copy(update={"train": MICRO.train.model_copy(update={"seed": seed, **train})})


def evaluated(runs: Path, name: str, recipe: Recipe = MICRO, right: int = 30) -> Path:
    """A run that has `right` of 40 answers right."""
    remove(make_run(runs / name, recipe), "evaluate")
    answers = {("unseen", target): answered(range(right), 40) for target in ("base", TARGET)}
    by_target = {target: {suite: of_suite} for (suite, target), of_suite in answers.items()}
    tables = all_tables(answers, 0.95)
    make_evaluate(runs / name, PASSED, by_target, tables | {"engines": ENGINES, "classifier": []})
    return runs / name


def test_everything_that_shows_figures_says_where_they_are_from(runs: Path) -> None:
    run = evaluated(runs, "demo")
    evaluated(runs, "other", right=20)
    date = open_stage(run, "evaluate").manifest.ended
    told = f"Measured {date:%Y-%m-%d} on Planted 9000, 8 cores"
    engines = "base, tuned Q4_K_M by llama.cpp (1.2) with 8 threads; tuned F16 by vLLM (0.32)."
    shown = {
        "report": write_report(run).read_text(),
        "card": write_card(run)[0].read_text().replace("\\", ""),
        "terminal": CliRunner(env={"COLUMNS": "400"}).invoke(app, ["runs", "show", "demo"]).output,
        "compare": CliRunner(env={"COLUMNS": "400"}).invoke(app, ["compare", "demo", "other"]).output,
        "page": (runs / f"other/compare-demo-{TARGET}-other-{TARGET}.html").read_text(),
    }
    for place, text in shown.items():
        assert told in text and engines in text, (place, text[-3000:])
        assert "cover the choice of requests" in text or place == "compare", place
    assert "<td>Planted 9000, 8 cores</td>" in shown["report"]  # beside every stage


def test_how_much_another_seed_changes_is_measured_where_there_is_one(runs: Path) -> None:
    run = evaluated(runs, "demo", right=30)
    assert describe_variation(run, TARGET) == [NOT_REPEATED]
    evaluated(runs, "seed-1", with_seed(1), right=34)
    evaluated(runs, "seed-2", with_seed(2), right=36)
    evaluated(runs, "other-rank", with_seed(3, rank=4), right=1)
    evaluated(runs, "the-same-again", right=3)
    make_run(runs / "unfinished", with_seed(4))
    remove(runs / "unfinished", "evaluate")
    stale = evaluated(runs, "stale", with_seed(5), right=2)
    remove(stale, "convert")
    make_convert(stale, "others")
    (spread,) = measure_spread(run, TARGET).values()
    shares = [30 / 40, 34 / 40, 36 / 40]
    assert (spread.runs, spread.lowest, spread.highest, spread.machines) == (3, shares[0], shares[2], 1)
    assert spread.mean == pytest.approx(statistics.mean(shares))
    assert spread.deviation == pytest.approx(statistics.stdev(shares))
    line = (
        "unseen, over 3 runs that differ in their seeds alone: mean 83.3\u202f%, standard deviation 7.6 points "
        "(75.0\u202f% to 90.0\u202f%)."
    )
    assert describe_variation(run, TARGET) == [line]
    card = write_card(run)[0].read_text().replace("\\", "")
    assert line in write_report(run).read_text() and line in card
    assert "3 runs that differ" in CliRunner(env={"COLUMNS": "400"}).invoke(app, ["runs", "show", "seed-1"]).output


def test_an_evaluation_of_before_says_what_was_not_recorded(runs: Path) -> None:
    run = evaluated(runs, "demo")
    found = open_stage(run, "evaluate")
    older = found.manifest.model_copy(
        update={"machines": (), "metrics": found.metrics | {"engines": {"base": "llama.cpp"}}}
    )
    told = describe_measurement(artifacts.Artifact(found.path, older))
    assert "a machine that was not recorded; base by llama.cpp of a version that was not recorded." in told


def test_the_engine_that_answers_is_named_with_its_threads(runs: Path, tmp_path: Path) -> None:
    with (tmp_path / "large.gguf").open("wb") as file:
        file.truncate(1 << 27)
    (tmp_path / "small.gguf").write_bytes(b"")
    threads = [describe_engine(MICRO, TARGET, tmp_path / f"{size}.gguf")["threads"] for size in ("large", "small")]
    engine = describe_engine(MICRO, TARGET, tmp_path / "small.gguf")
    assert threads[1] == 1 and 1 <= threads[0] <= 64
    assert engine["name"] == "llama.cpp" and engine["version"].startswith("llama-cpp-python 0.")


def test_preparing_again_gives_the_same_evidence(runs: Path) -> None:
    """What is made again to the same bytes makes nothing stale."""
    run = evaluated(runs, "demo")
    for stage, make in (("prepare", make_prepare), ("train", make_train), ("convert", make_convert)):
        remove(run, stage)
        make(run)
        assert open_stage(run, "evaluate")
