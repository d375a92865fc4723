"""What a run has cost, by its events, over all its attempts; and when that is too much."""

import json
from pathlib import Path
from typing import Any

import pytest

from tuneline.configs.recipe import Recipe
from tuneline.core import spending
from tuneline.core.errors import BadRequest, StageFailed
from tuneline.core.spending import Meter, sum_spent_usd

LIMITED = Recipe.model_validate(
    {"data": {"sources": [{"grammar": "unused", "rows": 1}]}, "compute": {"max_cost_usd": 5.0}}
)


def record(run: Path, *events: tuple[str, dict[str, Any]]) -> None:
    """Events at minutes of one hour."""
    lines = [{"time": f"2026-11-21T10:{minute}:00.000+00:00", **more} for minute, more in events]
    (run / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_every_attempt_counts_up_to_its_last_event_and_the_time_between_does_not(tmp_path: Path) -> None:
    record(
        tmp_path,
        ("00", {"kind": "started", "stage": "prepare"}),  # here, for nothing
        ("10", {"kind": "ended", "seconds": 1.0, "stage": "prepare"}),
        ("20", {"kind": "started", "stage": "train", "usd_per_hour": 6.0}),
        ("25", {"kind": "metrics", "step": 1, "stage": "train"}),  # killed
        ("40", {"kind": "started", "stage": "train", "usd_per_hour": 12.0}),
        ("45", {"kind": "ended", "seconds": 1.0, "stage": "train"}),
    )
    assert sum_spent_usd(tmp_path) == pytest.approx(5 / 60 * 6 + 5 / 60 * 12)


def test_a_limit_is_reached_by_price_times_time_and_what_was_spent_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(
        tmp_path,
        ("00", {"kind": "started", "stage": "train", "usd_per_hour": 6.0}),
        ("30", {"kind": "metrics", "step": 1, "stage": "train"}),
    )
    now = [1000.0]
    monkeypatch.setattr(spending, "monotonic", lambda: now[0])
    meter = Meter(LIMITED.compute.max_cost_usd, tmp_path, price=4.0)
    assert meter.spent == pytest.approx(3.0) and not meter.over()
    now[0] += 1799
    assert not meter.over()
    now[0] += 2
    assert meter.over()
    assert "compute.max_cost_usd: 5: 5.00 USD are spent; a checkpoint" in str(meter.error("a checkpoint"))
    with pytest.raises(StageFailed, match="nothing was started; the same command with a higher limit"):
        record(
            tmp_path,
            ("00", {"kind": "started", "stage": "train", "usd_per_hour": 12.0}),
            ("30", {"kind": "metrics", "step": 1, "stage": "train"}),
        )
        Meter(LIMITED.compute.max_cost_usd, tmp_path, price=4.0)


def test_without_a_price_nothing_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(spending.PRICE_VARIABLE, raising=False)
    assert spending.read_usd_per_hour() is None
    for wrong in ("2,99", "nan", "inf", "-1"):
        monkeypatch.setenv(spending.PRICE_VARIABLE, wrong)
        with pytest.raises(BadRequest, match=rf"TUNELINE_USD_PER_HOUR={wrong}: USD an hour"):
            spending.read_usd_per_hour()
    monkeypatch.setenv(spending.PRICE_VARIABLE, "2,99")
    with pytest.raises(BadRequest, match=r"TUNELINE_USD_PER_HOUR=2,99: USD an hour"):
        spending.read_usd_per_hour()
    monkeypatch.setattr(spending, "monotonic", lambda: 1e9)
    assert not Meter(LIMITED.compute.max_cost_usd, tmp_path, price=None).over()
