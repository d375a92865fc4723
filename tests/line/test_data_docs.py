"""The commands and recipes of docs/data.md run as they are written."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tuneline.cli import app
from tuneline.configs.data import Data
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.paths import ROOT
from tuneline.stages.fetch import fetch

PAGE = (ROOT / "docs/data.md").read_text()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-data").mkdir()
    rows = [{"prompt": f"what is {i}?", "completion": f"it is {i}, or {i * 7}"} for i in range(60)]
    (tmp_path / "my-data/chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_the_commands_run_in_their_order(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_MODELS", str(here / "models"))
    commands = re.findall(r"^    tuneline (.*)$", PAGE, re.M)
    assert [command.split()[0] for command in commands] == ["init", "validate", "prepare", "validate"]
    for command in commands:
        done = CliRunner().invoke(app, shlex.split(command))
        assert done.exit_code == 0, (command, done.output, done.exception)
        if command.startswith("init"):
            fetch(load_recipe(here / "recipe.yaml"), here / "run")
    assert (here / "validation/cleaned/1-chat.jsonl").read_text().count("\n") == 60


def test_the_recipes_are_recipes() -> None:
    whole, hired = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    data = Data.model_validate(yaml.safe_load(whole)["data"])
    assert len(data.sources) == 4 and data.require["rows"] == ">=5000"
    assert Data.model_validate({"sources": yaml.safe_load(hired)}).sources[0].synthesize
