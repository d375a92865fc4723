"""Training against a limit of money: it stops with a checkpoint, and a higher limit goes on."""

from pathlib import Path
from typing import Any

import pytest

from stages import artifact, spending
from stages.errors import StageFailed
from stages.events import read_events
from stages.fetch import fetch
from stages.line import in_subprocess
from tests.line import small

DOLLAR_A_SECOND = 3600.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNELINE_MODELS", str(folder / "models"))
        fetch(small.recipe(folder), folder / "prepared")
        small.prepared(folder)
    return folder / "prepared"


def test_a_run_that_costs_too_much_saves_a_checkpoint_and_a_higher_limit_goes_on(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_MODELS", str(run.parent / "models"))
    now = [0.0]
    monkeypatch.setattr(spending, "monotonic", lambda: now[0])
    wanted = small.recipe(run.parent, max_steps=60, save_steps=1, evaluate_steps=100)

    def limited(usd: float) -> artifact.Artifact:
        recipe = wanted.model_copy(update={"compute": wanted.compute.model_copy(update={"max_cost_usd": usd})})
        return in_subprocess(recipe, run, follow, price=DOLLAR_A_SECOND)("train")

    def follow(event: dict[str, Any]) -> None:
        if event["kind"] == "checkpoint":
            now[0] = 3600.0  # as if these steps had taken an hour

    def steps() -> list[int]:
        return [event["step"] for event in read_events(run) if event["kind"] == "metrics" and "loss" in event]

    with pytest.raises(StageFailed, match=r"max_cost_usd: 1: 36\d\d\.\d\d USD are spent; train was stopped"):
        limited(1)
    done = steps()
    assert 1 <= len(done) < 60
    assert (run / f"train/scratch/checkpoints/checkpoint-{done[-1]}/whole.json").exists()
    with pytest.raises(StageFailed, match=r"max_cost_usd: 1: .* nothing was started; .* higher limit"):
        limited(1)  # what was spent is remembered by the run itself
    assert steps() == done
    made = limited(1e6)
    assert steps() == list(range(1, 61))
    assert made.manifest.cost_usd == pytest.approx(made.manifest.seconds, rel=0.01)
