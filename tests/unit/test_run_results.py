"""What `tuneline run` ends with: scoreboard, gate, report and next commands, at 80 columns."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.runs import MICRO, PASSED, make_evaluate, make_run, remove
from tuneline.cli import app
from tuneline.cli.commands import pipeline
from tuneline.cli.views.logs import format_record
from tuneline.cli.views.units import format_range
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.artifacts import read_artifact
from tuneline.core.errors import GateFailed
from tuneline.core.formatting import format_progress, format_small
from tuneline.core.modal_command import modal_command
from tuneline.core.paths import ROOT
from tuneline.core.safe_console import SafeConsole
from tuneline.endpoints.promotion import promote
from tuneline.endpoints.run_list import list_runs
from tuneline.stages.evaluate.answers import IN_WORDS
from tuneline.stages.evaluate.verdicts.gate import WHY_NO_DEMANDS
from tuneline.stages.report.model_card import make_card
from tuneline.volumes.entrypoints import split_settings

WIDEST = dict.fromkeys(("name_accuracy", "name_high", "exact_accuracy", "exact_high"), 1.0)
BOUNDS = {"name_low": 0.991, "exact_low": 0.991}
SPEED = {"json_valid": 1.0, "tokens_per_second": 9.0, "faults": {}, "errors": 0}
SUITES = ("unseen_phrasings", "prices")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> SafeConsole:
    console = SafeConsole(width=80, record=True)
    monkeypatch.setattr(pipeline, "console", console)
    return console


def evaluated_run(folder: Path, gate: dict[str, Any]) -> Path:
    targets = ("base", "tuned-Q4_K_M", "a-model-of-another-company")
    scoreboard = [{"suite": s, "target": t, "n": 12345, **WIDEST, **BOUNDS, **SPEED} for s in SUITES for t in targets]
    labels = dict(zip(SUITES, ("whatsapp.send", IN_WORDS), strict=True))
    handlers = [
        {"suite": suite, "target": "base", "tool": label, "n": 1, "right": 1, "exact": 1}
        for suite, label in labels.items()
    ]
    classifier = [{"suite": SUITES[0], "n": 12345, "accuracy": 1.0, "low": 0.991, "high": 1.0}]
    run = make_run(folder)
    remove(run, "evaluate")
    make_evaluate(run, gate, metrics={"scoreboard": scoreboard, "classifier": classifier, "handlers": handlers})
    return run


def test_no_interval_is_broken_and_words_are_not_called_tools(tmp_path: Path, terminal: SafeConsole) -> None:
    run = evaluated_run(tmp_path / "runs/first", PASSED)
    pipeline.print_results(run, Path("my recipe.yaml"))
    text = terminal.export_text()
    table = text.partition("Measured")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert table.count("100.0 % (99.1–100.0)") == 2 * 3 + 3 + 1 and "…" not in table
    of_calls, of_words = table.split("prices, 12345 requests")
    assert "right tool" in of_calls and "right answer" in of_words and "right tool" not in of_words
    assert "On unseen phrasings the TF-IDF classifier chooses the tool at least as well as tuned Q4_K_M" in " ".join(
        text.split()
    )
    assert "gate: passed, 1 of 1 demands of the recipe met:\n  - unseen: 99 %" in text
    assert f"report: {run / 'report.html'}" in text
    assert "tuneline promote first --as NAME" in text and "--recipe 'my recipe.yaml'" in text


NO_DEMANDS = PASSED | {"demands": 0, "reasons": [WHY_NO_DEMANDS]}


def test_a_gate_without_demands_is_called_that_everywhere(
    tmp_path: Path, terminal: SafeConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("runs", "models", "policy"):
        monkeypatch.setenv(f"TUNELINE_{name.upper()}", str(tmp_path / name))
    run = make_run(tmp_path / "runs/none", gate=NO_DEMANDS)
    pipeline.print_results(run, Path("recipe.yaml"))
    text = terminal.export_text()
    assert f"gate: no demands: {WHY_NO_DEMANDS}" in " ".join(text.split())
    assert "not measured: the recipe has no suites" in text and "Measured" not in text and "promote" not in text
    page = (run / "report.html").read_text()
    assert "The gate has no demands." in page and "gate is passed" not in page and "✓</b> no suite" not in page
    assert "The gate says: no demands." in make_card(run)["README.md"]
    assert [summary.gate for summary in list_runs()] == ["no demands"]
    with pytest.raises(GateFailed, match=f"none: no demands:\n{WHY_NO_DEMANDS}"):
        promote("none", "router")
    assert promote("none", "router", override="a trial").gate == "no demands"


def test_the_command_for_modal_continues_exactly_this_run(
    tmp_path: Path, terminal: SafeConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = evaluated_run(tmp_path / "runs/mine", PASSED)
    monkeypatch.chdir(tmp_path)
    pipeline.print_results(run, Path("my recipe.yaml"), ["train.rank=8", "data.max_tokens=4096"])
    words = "--recipe 'my recipe.yaml' --run mine --set 'train.rank=8 data.max_tokens=4096'"
    assert f"modal run -m tuneline.app::train {words}" in " ".join(terminal.export_text().split())
    assert split_settings("train.rank=8 data.max_tokens=4096") == ["train.rank=8", "data.max_tokens=4096"]
    monkeypatch.chdir(ROOT)
    assert modal_command("train", "r.yaml", "mine") == "modal run app.py::train --recipe r.yaml --run mine"


def test_no_cell_of_a_run_is_cut_at_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("runs", "models", "policy"):
        monkeypatch.setenv(f"TUNELINE_{name.upper()}", str(tmp_path / name))
    recipe = MICRO.model_copy(update={"name": "x"})
    run = make_run(tmp_path / "runs" / ("a-run-of-a-rather-long-name-" * 2), recipe)
    make_run(tmp_path / "runs/other", MICRO.model_copy(update={"train": MICRO.train.model_copy(update={"rank": 99})}))
    for words in (["show", run.name], ["ls"], ["diff", run.name, "other"], ["gc"], ["rm", run.name]):
        shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["runs", *words], catch_exceptions=False).output
        assert "…" not in shown, words
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["runs", "show", run.name]).output
    assert read_artifact(run / "train").manifest.fingerprint[:12] in shown


def test_a_stage_that_is_missing_is_named_with_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("runs", "models"):
        monkeypatch.setenv(f"TUNELINE_{name.upper()}", str(tmp_path / name))
    run = make_run(tmp_path / "runs/raw")
    remove(run, "evaluate", "convert")
    said = str(CliRunner().invoke(app, ["chat", "raw", "hi"]).exception)
    assert f"run `tuneline convert {run / 'recipe.json'} --run raw` first" in said
    command = said.partition("run `tuneline ")[2].partition("`")[0].split()
    assert load_recipe(Path(command[1])) == MICRO


@pytest.mark.parametrize(
    ("assigned", "served", "step", "shown"),
    [
        ("baseline", "baseline", "baseline", "baseline"),
        ("candidate", "candidate", "25", "candidate at 25 %"),
        ("candidate", "fallback", "25", "candidate→fallback at 25 %"),
        (None, "baseline", None, "-→baseline"),
    ],
)
def test_a_logged_request_says_once_what_served(
    assigned: str | None, served: str, step: str | None, shown: str
) -> None:
    line = format_record({"at": "2026", "id": "r", "assigned": assigned, "served": served, "step": step})
    assert line.split("  ")[3] == shown


def test_no_amount_that_is_something_reads_as_nothing() -> None:
    assert format_progress(3e6, 6.8e6, "bytes") == "3.0\u202fMB of 6.8\u202fMB"
    assert format_progress(6, 1000, "steps") == "6/1,000 steps"
    assert [format_small(amount) for amount in (0, 0.001, 0.005, 1.5)] == ["0.00", "<0.01", "0.01", "1.50"]
    assert format_range((0.0, 0.002)) == "<0.01"


def test_a_gate_that_says_no_gives_its_reasons_and_exit_code_3(tmp_path: Path, terminal: SafeConsole) -> None:
    refused = {"outcome": "fail", "passed": False, "reasons": ["unseen: 40 %"], "unmet": ["unseen: 40 %"], "open": []}
    run = evaluated_run(tmp_path / "runs/second", refused)
    with pytest.raises(typer.Exit) as end:
        pipeline.print_results(run, Path("recipe.yaml"))
    text = terminal.export_text()
    assert end.value.exit_code == 3
    assert "gate: fail\n  - unseen: 40 %" in text and "tuneline chat second" in text and "promote" not in text
