"""Each shipped recipe states what it takes, as the plan has it, and why it is that much."""

from pathlib import Path

import pytest

from tuneline.configs.hardware import Range
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.paths import ROOT
from tuneline.stages.plan import Plan, make_plan

RECIPES = sorted((ROOT / "configs/recipes").glob("*.yaml"))
MOST_EPOCHS = 3


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_states_its_plan_and_why(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))  # a base that is fetched already costs nothing
    plan = make_plan(load_recipe(file), tmp_path / "no run")
    lines = file.read_text(encoding="utf-8").splitlines()
    assert describe(plan) in lines, f"{file}: state this line"
    assert any(line.startswith("# Why: ") for line in lines)
    assert plan.training.epochs and plan.training.epochs <= MOST_EPOCHS


def describe(plan: Plan) -> str:
    training = plan.training
    assert training.tokens and training.epochs and training.rows.train
    way = next(way for way in training.ways if way.asked)
    assert way.hours
    hardware = f"{way.count} {way.gpu}" if way.count else "a CPU"
    usd = next(cost.usd for cost in way.costs if cost.provider == "modal")
    bound = sum(stage.usd_at_most for stage in plan.line)
    millions = (training.tokens[0] / 1e6, training.tokens[1] / 1e6)
    return (
        f"# Planned: {rounded(training.rows.train)} rows, epochs: {rounded(training.epochs)}, {between(millions)} M "
        f"tokens; {between(way.hours)} h on {hardware}, {between(usd)} USD; the whole run {rounded(bound)} USD at most."
    )


def between(values: Range) -> str:
    return "-".join(dict.fromkeys(rounded(value) for value in values))


def rounded(value: float) -> str:
    """Two digits; cents of a dollar and thousandths of the rest are nothing."""
    return f"{float(f'{value:.2g}') if value >= 0.01 else 0:,.12g}"
