"""How a stage's call ends when its time is over."""

from typing import Any

import pytest

from tuneline.configs.recipe_file import load_recipe
from tuneline.core.errors import StageFailed
from tuneline.core.paths import ROOT
from tuneline.volumes import stage_container

RECIPE = load_recipe(ROOT / "configs/recipes/micro.yaml").model_dump_json()


@pytest.mark.parametrize(
    ("events", "state"), [(["started", "metrics", "checkpoint"], "unfinished"), (["started"], "failed")]
)
def test_a_call_that_only_started_is_not_followed_by_another(
    events: list[str], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*given: Any) -> None:
        given[-1].update(events)
        raise StageFailed("stopped by SIGTERM")

    monkeypatch.setattr(stage_container, "_run_synchronized", stopped)
    outcome = stage_container.run_stage("train", RECIPE, "run", hours=0.0)
    assert outcome["state"] == state
    if state == "failed":
        assert "raise compute.train.hours" in outcome["message"]
