"""What `tuneline run` ends with: scoreboard, gate, report and next commands, at 80 columns."""

from pathlib import Path
from typing import Any

import pytest
import typer

from tests.runs import PASSED, make_evaluate, make_run, remove
from tuneline.cli.commands import pipeline
from tuneline.core.safe_console import SafeConsole
from tuneline.stages.evaluate.answers import IN_WORDS

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
    assert "gate: passed, 1 demands met" in text
    assert f"report: {run / 'report.html'}" in text
    assert "tuneline promote first --as NAME" in text and "--recipe 'my recipe.yaml'" in text


def test_a_gate_that_says_no_gives_its_reasons_and_exit_code_3(tmp_path: Path, terminal: SafeConsole) -> None:
    refused = {"outcome": "fail", "passed": False, "reasons": ["unseen: 40 %"], "unmet": ["unseen: 40 %"], "open": []}
    run = evaluated_run(tmp_path / "runs/second", refused)
    with pytest.raises(typer.Exit) as end:
        pipeline.print_results(run, Path("recipe.yaml"))
    text = terminal.export_text()
    assert end.value.exit_code == 3
    assert "gate: fail\n  - unseen: 40 %" in text and "tuneline chat second" in text and "promote" not in text
