"""The recipe of docs/suites.md is one, and what the page says is there is there."""

import re

import pytest
import yaml

from tuneline.configs.evaluation import Evaluate
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.paths import ROOT
from tuneline.stages.evaluate.scoring.scoreboard import TABLES
from tuneline.stages.evaluate.suites.suite_items import make_items

PAGE = (ROOT / "docs/suites.md").read_text()


def test_the_recipe_is_a_recipe() -> None:
    written, logged = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    names = [suite.name for suite in Evaluate.model_validate(yaml.safe_load(logged)["evaluate"]).suites]
    assert names == ["heldout", "support"]
    evaluate = Evaluate.model_validate(yaml.safe_load(written)["evaluate"])
    house = make_items(evaluate.suites[3])
    assert [item.turn for item in house] == [0, 0, 1, 0, 1, 0] and len(house[0].calls) == 2
    assert [target.is_paid for target in evaluate.targets] == [True, False] and evaluate.standard


def test_every_suite_and_table_is_told() -> None:
    rows = re.findall(r"^\| (\w+) \|", PAGE, re.M)
    assert set(rows) - {"suite"} == {file.stem for file in (ROOT / "configs/suites").glob("*.yaml")}
    told = set(re.findall(r"`(\w+)`", PAGE))
    assert set(TABLES) <= told


@pytest.mark.parametrize("key", ["recipe", "name"])
def test_the_inspect_command_names_what_is_there(key: str) -> None:
    (command,) = re.findall(r"inspect eval (.*?)\n\n", PAGE, re.S)
    given = dict(re.findall(r"-T (\w+)=(\S+)", command))
    file, _, task = command.split()[0].partition("@")
    assert f"def {task}(" in (ROOT / file).read_text() and given[key]
    suites = load_recipe(ROOT / given["recipe"]).evaluate.suites
    assert given["name"] in {suite.name for suite in suites}
