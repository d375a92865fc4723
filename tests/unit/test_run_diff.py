"""`tuneline runs diff`: what differs is shown with its section, and nothing else."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.runs import MICRO, make_evaluate, make_prepare, make_run, make_train, remove
from tuneline.cli import app
from tuneline.configs.recipe import RECIPE, Recipe
from tuneline.core.errors import NotFound

ROW = {"suite": "unseen", "target": "tuned-Q4_K_M", "n": 100, "name_accuracy": 0.5, "name_low": 0.4, "name_high": 0.6}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("runs", "models"):
        monkeypatch.setenv(f"TUNELINE_{name.upper()}", str(tmp_path / name))
    return tmp_path / "runs"


def diff(a: str, b: str) -> dict[tuple[str, str], tuple[object, object]]:
    done = CliRunner().invoke(app, ["runs", "diff", a, b, "--json"])
    if done.exception:
        raise done.exception
    return {(row["section"], row["name"]): (row["a"], row["b"]) for row in json.loads(done.output)}


def with_rank(rank: int) -> Recipe:
    return MICRO.model_copy(update={"train": MICRO.train.model_copy(update={"rank": rank})})


def test_a_run_and_its_copy_differ_in_nothing(runs: Path) -> None:
    make_run(runs / "a", MICRO)
    make_run(runs / "b", MICRO)
    assert diff("a", "b") == {}
    said = CliRunner().invoke(app, ["runs", "diff", "a", "b"]).output
    assert "a and b differ in nothing" in said.replace("\n", " ")


def test_each_section_names_what_differs(runs: Path) -> None:
    make_run(runs / "a", MICRO)
    run = make_run(runs / "b", with_rank(16))
    remove(run, "prepare", "train", "convert", "evaluate")
    make_prepare(run, {"train.jsonl": "more"}, {"rows_train": 200})
    make_train(run, metrics={"validation_loss": 0.25})
    recipe = json.loads((run / RECIPE).read_text())
    recipe["compute"]["train"]["hours"] = 9.0
    (run / RECIPE).write_text(json.dumps(recipe))
    found = diff("a", "b")
    assert found["settings", "train.rank"] == (8, 16)
    assert found["settings", "compute.train.hours"] == (4.0, 9.0)
    assert found["data", "rows_train"] == (90, 200)
    assert found["losses", "validation_loss"] == (None, 0.25)
    assert found["stages", "evaluate"] == ("finished", "not begun")
    sha_a, sha_b = found["data", "train.jsonl"]
    assert str(sha_a).startswith("sha256:") and sha_a != sha_b
    assert {section for section, _ in found} == {"stages", "settings", "data", "losses"}  # of what both have


def test_scores_have_their_interval_and_number(runs: Path) -> None:
    make_run(runs / "a", MICRO)
    other = make_run(runs / "b", MICRO)
    for run, right in ((runs / "a", 0.5), (other, 0.55)):
        remove(run, "evaluate")
        make_evaluate(run, metrics={"scoreboard": [ROW | {"name_accuracy": right}]})
    (pair,) = diff("a", "b").values()
    assert pair == tuple({"share": share, "low": 0.4, "high": 0.6, "n": 100} for share in (0.5, 0.55))
    table = CliRunner(env={"COLUMNS": "120"}).invoke(app, ["runs", "diff", "a", "b"]).output
    assert "50.0 % (40.0–60.0) of 100" in table and "55.0 %" in table


def test_versions_and_unknown_runs(runs: Path) -> None:
    make_run(runs / "a", MICRO)
    run = make_run(runs / "b", MICRO)
    file = run / "train/manifest.json"
    record = json.loads(file.read_text())
    record.pop("checksum")
    record["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(record))
    ((key, pair),) = diff("a", "b").items()
    assert key == ("versions", "torch (train)") and pair[1] == "1.0"
    with pytest.raises(NotFound, match="'nobody'"):
        diff("a", "nobody")
