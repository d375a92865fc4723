"""docs/training.md names keys that there are."""

import re

from tuneline.configs.training import Train
from tuneline.core.paths import ROOT

PAGE = (ROOT / "docs/training.md").read_text()


def test_every_key_is_a_recipes() -> None:
    table = PAGE.split("| key of `train` | |")[1].split("\n\n")[0]
    rows = [re.findall(r"`(\w+)[`:]", line.split("|")[1]) for line in table.splitlines()[2:]]
    assert len(rows) > 7 and all(rows)
    assert {key for row in rows for key in row} <= set(Train.model_fields)
