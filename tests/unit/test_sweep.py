"""`tuneline sweep`: every combination is a run, costs come first, and each run is compared with the first."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.runs import make_evaluate, make_run, remove
from tuneline.cli import app
from tuneline.cli.views.sweep import render_sweep
from tuneline.configs.sweep import expand_sweep
from tuneline.core.errors import BadRecipe, BadRequest
from tuneline.core.paths import ROOT
from tuneline.core.safe_console import SafeConsole
from tuneline.stages.evaluate.answers import Reply
from tuneline.stages.evaluate.scoring.grading import grade
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.verdicts.sweep_table import compare_runs

MICRO = ROOT / "configs/recipes/micro.yaml"


def test_every_combination_is_a_run_with_a_name_of_its_own() -> None:
    runs = expand_sweep(MICRO, ["train.rank=4,8", "train.targets=[attention],[attention, mlp]", "train.alpha=8"])
    assert [run.name for run in runs] == [
        "micro-rank-4-targets-attention",
        "micro-rank-4-targets-attention-mlp",
        "micro-rank-8-targets-attention",
        "micro-rank-8-targets-attention-mlp",
    ]
    assert [(run.recipe.train.rank, len(run.recipe.train.targets), run.recipe.train.alpha) for run in runs] == [
        (4, 1, 8),
        (4, 2, 8),
        (8, 1, 8),
        (8, 2, 8),
    ]


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        (["train.rank=8"], BadRequest, "several values"),
        (["train.rank=8,8"], BadRequest, "two runs would be called"),
        (["train.rank=8,many"], BadRecipe, "--set train.rank=many"),
        (["train.seed=" + ",".join(map(str, range(65)))], BadRequest, "65 runs, 64 at most"),
        (["train.rank"], BadRequest, "KEY=VALUE"),
    ],
)
def test_what_is_no_sweep_is_refused(settings: list[str], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        expand_sweep(MICRO, settings)


def test_runs_and_costs_are_shown_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    done = CliRunner().invoke(app, ["sweep", str(MICRO), "--set", "train.rank=4,8", "--dry-run"])
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert "2 runs on this machine, one after the other, at no cost; on Modal" in words and "USD at most" in words
    assert "micro-rank-4: train.rank=4; to do: fetch, prepare, train, convert, evaluate" in words
    assert not (tmp_path / "runs").exists()


def answers_of(right: int) -> dict[str, dict[str, list[object]]]:
    items = [Item(f"unseen-{i:04d}", f"request {i}", "email.send", {"to": "Ana"}, f"request {i}") for i in range(200)]
    call = [{"name": "email.send", "arguments": {"to": "Ana"}}]
    return {
        "tuned-Q4_K_M": {
            "unseen": [grade(item, Reply(calls=call if i < right else [])) for i, item in enumerate(items)]
        }
    }


def test_each_run_is_compared_with_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    names = {"m-rank-4": 100, "m-rank-8": 180, "m-rank-16": 101}
    for name, right in names.items():
        run = make_run(tmp_path / "runs" / name)
        remove(run, "evaluate")
        make_evaluate(run, answers=answers_of(right))
    table = compare_runs(list(names))
    assert {run: verdict.verdict for (run, _), verdict in table.verdicts.items()} == {
        "m-rank-8": "better",
        "m-rank-16": "too few",
    }
    assert json.dumps(table.as_json())
    console = SafeConsole(width=80, record=True)
    console.print(render_sweep(table, {name: (f"train.rank={name.rpartition('-')[2]}",) for name in names}))
    text = console.export_text()
    assert "unseen, 200 items, against m-rank-4" in text and "too few items" in text
    assert any("m-rank-8" in line and "90.0%" in line and "+40.0 (" in line for line in text.splitlines())
