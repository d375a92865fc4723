"""The commands of docs/report.md, docs/people.md and docs/load.md run as they are written."""

import contextlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.unit.test_load import fake, report
from tests.unit.test_report import make_all
from tuneline import cli
from tuneline.configs.evaluation import Evaluate
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.paths import ROOT
from tuneline.stages.evaluate import judge_command
from tuneline.stages.evaluate.load_testing import load_test
from tuneline.stages.evaluate.load_testing.guidellm import VERSION


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    make_all(tmp_path / "runs/demo")
    recipe = load_recipe(ROOT / "configs/recipes/demo.yaml")
    (tmp_path / "runs/demo/recipe.json").write_text(recipe.model_dump_json())
    return tmp_path / "runs/demo"


def run_all(page: str) -> list[str]:
    commands = re.findall(r"^    tuneline (.*)$", (ROOT / "docs" / page).read_text(), re.M)
    for command in commands:
        if command.startswith("ratings"):
            save_votes()
        done = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, shlex.split(command))
        assert done.exit_code == 0, (command, done.output, done.exception)
    return [command.split()[0] for command in commands]


def save_votes() -> None:
    (key,) = Path("runs/demo").glob("*.key.json")
    ballot = json.loads(key.read_text())
    for rater in ("ann", "bo"):
        rating = {"ballot": ballot["ballot"], "rater": rater, "votes": dict.fromkeys(ballot["a_is_left"], "left")}
        Path(f"rating-{rater}.json").write_text(json.dumps(rating))


def test_report_and_card(demo: Path) -> None:
    assert run_all("report.md") == ["report", "card"]


class Judge:
    """A provider whose model finds everything good."""

    def connect(self, model: str) -> Any:
        return contextlib.nullcontext(self)

    async def ask(self, messages: Any, **sampling: Any) -> Any:
        return SimpleNamespace(text="GOOD")


def test_people_and_judge(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_command, "find_provider", lambda name: Judge())
    assert run_all("people.md") == ["rate", "ratings", "judge", "judge"]
    assert json.loads((demo / "judge.json").read_text())["n"] == 40
    assert "The judge" in cli_report(demo)


def test_load(demo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextlib.contextmanager
    def served(folder: Path) -> Iterator[Any]:
        yield SimpleNamespace(base_url="http://here/v1", process=SimpleNamespace(pid=1))

    (tmp_path / "report.json").write_text(json.dumps(report([0.0] * 120)))
    body = f"""
spec = json.load(open(sys.argv[sys.argv.index("--config") + 1]))["spec"]
open(spec["outputs"][0]["path"], "w").write(open({str(tmp_path / "report.json")!r}).read())
"""
    fake(tmp_path, monkeypatch, body)
    monkeypatch.setattr("tuneline.cli.commands.evidence.start_server", served)
    monkeypatch.setattr(load_test, "_first_model", lambda url: "demo")
    monkeypatch.setattr(load_test, "load_tools", lambda prepared: None)
    assert run_all("load.md") == ["load", "load"]
    text = cli_report(demo)
    assert "Under load" in text and "A10" in text and "0.300 s" in text
    page = (ROOT / "docs/load.md").read_text()
    assert f"guidellm=={VERSION}" in page
    (written,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    gate = Evaluate.model_validate(yaml.safe_load(written)["evaluate"]).gate
    assert gate and gate.service and gate.service.p95_latency_s == 2


def cli_report(run: Path) -> str:
    assert CliRunner().invoke(cli.app, ["report", run.name]).exit_code == 0
    return (run / "report.html").read_text()
