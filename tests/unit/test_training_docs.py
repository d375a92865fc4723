"""docs/training.md names keys, values and commands that there are."""

import re

import yaml

from tuneline.configs.compute import Compute
from tuneline.configs.training import Train, Watch
from tuneline.core.paths import ROOT
from tuneline.stages.line import ORDER, SIDE_STAGES

PAGE = (ROOT / "docs/training.md").read_text()


def test_every_key_is_a_recipes() -> None:
    table = PAGE.split("| key of `train` | |")[1].split("\n\n")[0]
    rows = [re.findall(r"`(\w+)[`:]", line.split("|")[1]) for line in table.splitlines()[2:]]
    assert len(rows) > 7 and all(rows)
    assert {key for row in rows for key in row} <= set(Train.model_fields)


def test_the_examples_are_recipes() -> None:
    watch, compute = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.S))
    assert Watch.model_validate(watch["watch"]).memory_gb == 75
    assert Compute.model_validate(compute["compute"]).processes == 2


def test_the_commands_are_there() -> None:
    commands = re.findall(r"^    tuneline (\w+) (\S+)$", PAGE, re.M)
    assert [verb for verb, _ in commands] == ["train", "preflight"] and {"train", "preflight"} < {*ORDER, *SIDE_STAGES}
    assert all((ROOT / recipe).exists() for _, recipe in commands)
    ((script, recipe),) = re.findall(r"^    bash (\S+) \S+@\S+ (\S+)$", PAGE, re.M)
    assert (ROOT / script).exists() and (ROOT / recipe).exists()
    performance = (ROOT / "docs/performance.md").read_text()
    scripts = re.findall(r"`python (\S+)`", PAGE + performance)
    assert len(scripts) == 4 and all((ROOT / script).exists() for script in scripts)
