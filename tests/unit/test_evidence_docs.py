"""The commands and the recipe of docs/evidence.md run as they are written."""

import json
import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.unit.test_compare import answered
from tuneline.cli import app
from tuneline.configs.evaluation import Evaluate
from tuneline.configs.recipe_file import load_recipe
from tuneline.core import artifacts
from tuneline.core.paths import ROOT
from tuneline.endpoints.promotion import read_promotion
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.evaluate.verdicts import gate
from tuneline.stages.evaluate.verdicts.suite_demands import Evidence

PAGE = (ROOT / "docs/evidence.md").read_text()


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    run = tmp_path / "runs/demo"
    recipe = load_recipe(ROOT / "configs/recipes/demo.yaml")
    targets = {"base": range(9), "tuned-F16": range(495), "tuned-Q4_K_M": range(490)}
    found = {("unseen_phrasings", target): answered(right) for target, right in targets.items()}

    def evaluate(folder: Path) -> dict[str, object]:
        for (suite, target), answers in found.items():
            (folder / "answers" / suite).mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(asdict(answer)) + "\n" for answer in answers)
            (folder / "answers" / suite / f"{target}.jsonl").write_text(lines)
        return {"gate": gate.decide_gate(recipe.evaluate, Evidence(found, "tuned-Q4_K_M", "base"))[0]}

    artifacts.make(run / "convert", stage_version=1, settings={}, needs={}, build=lambda _: {})
    artifacts.make(run / "evaluate", stage_version=1, settings={}, needs={}, build=evaluate)
    (run / "recipe.json").write_text(recipe.model_dump_json())
    return run


def test_the_commands_run_in_their_order(demo: Path) -> None:
    commands = re.findall(r"^    tuneline (.*)$", PAGE, re.M)
    assert [command.split()[0] for command in commands] == ["compare", "compare", "promote", "promote", "rollback"]
    for command in commands:
        done = CliRunner(env={"COLUMNS": "200"}).invoke(app, shlex.split(command))
        assert done.exit_code == 0, (command, done.output, done.exception)
    versions = read_promotion("router").versions
    assert [v.override for v in versions] == [None, "the old one is down", None]
    assert versions[0].gate == "pass" and all(v.by for v in versions)


def test_the_recipe_is_a_recipe() -> None:
    (written,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    evaluate = Evaluate.model_validate(yaml.safe_load(written)["evaluate"])
    assert [suite.name for suite in evaluate.suites] == ["handler_routing", "unseen", "house", "forgetting"]
    assert len(make_items(evaluate.suites[2])) == 1 + 2 + 1 + 4
    assert evaluate.gate and evaluate.gate.no_task_worse and evaluate.gate.composite == 90
