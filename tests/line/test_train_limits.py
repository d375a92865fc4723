"""Training and its cost: preflight measures it first, and a limit stops it with a checkpoint."""

import io
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.line import small
from tuneline.core import artifacts, spending
from tuneline.core import meter as meters
from tuneline.core.errors import BadRecipe, StageFailed
from tuneline.core.events import read_events
from tuneline.core.meter import Limits, Meter
from tuneline.core.progress import Progress
from tuneline.core.safe_console import SafeConsole
from tuneline.stages.fetch import fetch
from tuneline.stages.line import describe_stages, run_line, subprocess_runner
from tuneline.stages.preflight import format_comparison, refuse_over_budget
from tuneline.stages.report import write_report

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
    monkeypatch.setattr(meters, "monotonic", lambda: now[0])
    wanted = small.recipe(run.parent, max_steps=60, save_steps=1, evaluate_steps=100)

    def limited(usd: float) -> artifacts.Artifact:
        recipe = wanted.model_copy(update={"compute": wanted.compute.model_copy(update={"max_cost_usd": usd})})
        limits = Limits(usd=recipe.compute.max_cost_usd)
        return subprocess_runner(recipe, run, follow, lambda _: Meter(run, "train", limits, DOLLAR_A_SECOND))("train")

    def follow(event: dict[str, Any]) -> None:
        if event["kind"] == "checkpoint":
            now[0] = 3600.0  # as if these steps had taken an hour

    def steps() -> list[int]:
        return [event["step"] for event in read_events(run) if event["kind"] == "metrics" and "loss" in event]

    with pytest.raises(StageFailed, match=r"max_cost_usd: 1: 36\d\d\.\d\d USD have been spent; train was stopped"):
        limited(1)
    done = steps()
    assert 1 <= len(done) < 60
    assert (run / f"train/scratch/checkpoints/checkpoint-{done[-1]}/whole.json").exists()
    with pytest.raises(StageFailed, match=r"max_cost_usd: 1: .* nothing was started; .* raise the limit"):
        limited(1)  # what was spent is remembered by the run itself
    assert steps() == done
    made = limited(1e6)
    assert steps() == list(range(1, 61))
    assert made.manifest.cost_usd == pytest.approx(made.manifest.seconds, rel=0.01)


def test_a_loss_that_is_no_number_ends_with_advice(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_MODELS", str(run.parent / "models"))
    diverging, folder = small.recipe(run.parent, learning_rate=1e30, warmup_steps=0), run.parent / "diverging"
    shutil.copytree(run / "prepare", folder / "prepare")
    out = io.StringIO()
    with (
        Progress(SafeConsole(file=out, force_terminal=True, width=200)) as progress,
        pytest.raises(StageFailed, match=r"(?s)^diverged at step \d+: the loss is nan; .*lower train.learning_rate"),
    ):
        subprocess_runner(diverging, folder, progress.show)("train")
    assert "loss no number" in out.getvalue()
    assert "<svg" in write_report(folder).read_text()  # curves without the points that are no numbers


@pytest.mark.slow
def test_preflight_measures_the_longest_rows_and_refuses_what_is_too_dear(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_MODELS", str(run.parent / "models"))
    wanted = small.recipe(run.parent, max_steps=3000)
    monkeypatch.setenv(spending.PRICE_VARIABLE, "10")
    call = subprocess_runner(wanted, run, lambda event: None)
    metrics = run_line(wanted, "preflight", call)[-1].metrics
    measured, planned = metrics["measured"], metrics["planned"]
    assert measured["steps"] == 3000
    assert measured["hours"] >= 3000 * measured["seconds_per_step"] / 3600
    assert measured["usd"] == pytest.approx(10 * measured["hours"])
    assert measured["stop"]["step"] > 0 < measured["stop"]["checkpoint"] and measured["stop"]["validation"] > 0
    assert planned["usd"][0] < planned["usd"][1] and planned["memory_gb"][0] > 0 < measured["memory_gb"]
    assert "seconds per step" in format_comparison(run)
    assert {file.name for file in (run / "preflight").iterdir()} == {"manifest.json"}
    assert not [event for event in read_events(run) if event["stage"] == "preflight" and event["kind"] == "metrics"]

    def at_most(usd: float) -> None:
        compute = wanted.compute.model_copy(update={"max_cost_usd": usd})
        refuse_over_budget(wanted.model_copy(update={"compute": compute}), run)

    before = spending.sum_spent_usd(run)
    at_most(before + measured["usd"] + 0.01)
    with pytest.raises(BadRecipe, match=r"as preflight measured it, training takes .* h and .* USD"):
        at_most(before + measured["usd"] - 0.001)
    assert call("preflight").metrics == metrics  # what was measured is not measured again
    other = wanted.model_copy(update={"compute": wanted.compute.model_copy(update={"micro_batch_rows": 4})})
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in run.rglob("*") if file.is_file()}
    assert describe_stages(other, run, ("prepare", "preflight")) == {"prepare": "finished", "preflight": "to do"}
    assert before == {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in run.rglob("*") if file.is_file()}
    monkeypatch.delenv(spending.PRICE_VARIABLE)
    again = subprocess_runner(other, run, lambda event: None)("preflight").metrics
    assert again["measured"]["usd"] is None  # measured anew, where nobody is billed


def test_preflight_takes_the_longest_rows(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tuneline.stages.preflight import _copy_longest_rows
    from tuneline.stages.prepare.prepared_run import read_prepared

    _copy_longest_rows(small.recipe(run.parent), small.BASE, run / "prepare", tmp_path / "rows")
    taken = read_prepared(tmp_path / "rows/train.jsonl")
    assert len(taken) == 24
    words = [len(row.model_dump_json().split()) for row in read_prepared(run / "prepare/train.jsonl")]
    assert min(len(row.model_dump_json().split()) for row in taken) >= sorted(words)[-24] - 1
