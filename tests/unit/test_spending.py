"""What a run has taken, by the records beside it, over all its attempts; and when that is too much."""

import subprocess
import sys
from pathlib import Path

import pytest

from tuneline.core import meter as meters
from tuneline.core import spending
from tuneline.core.errors import BadRequest, StageFailed
from tuneline.core.meter import Limits, Meter
from tuneline.core.spending import FOLDER, RECORD_EVERY_S, Attempt, read_attempts, sum_hours, sum_spent_usd


def record(run: Path, *attempts: Attempt) -> None:
    (run / FOLDER).mkdir(exist_ok=True)
    for attempt in attempts:
        (run / FOLDER / f"{attempt.began}.json").write_text(attempt.model_dump_json())


def attempt(began: float, stage: str, seconds: float, state: str = "ended", price: float | None = None) -> Attempt:
    return Attempt.model_validate(
        {"began": began, "stage": stage, "seconds": seconds, "state": state, "usd_per_hour": price}
    )


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of meters; a test sets it."""
    clock = [1000.0]
    monkeypatch.setattr(meters, "monotonic", lambda: clock[0])
    return clock


def test_every_attempt_counts_at_its_price_and_a_killed_one_up_to_its_next_record(tmp_path: Path) -> None:
    record(
        tmp_path,
        attempt(1, "prepare", 600),  # here, for nothing
        attempt(2, "train", 300, "running", price=6.0),  # killed
        attempt(3, "train", 300, price=12.0),
    )
    assert sum_spent_usd(tmp_path) == pytest.approx((300 + RECORD_EVERY_S) / 3600 * 6 + 300 / 3600 * 12)
    assert sum_hours(read_attempts(tmp_path), "train") == pytest.approx((600 + RECORD_EVERY_S) / 3600)


def test_hours_count_since_the_stage_was_last_finished(tmp_path: Path) -> None:
    record(tmp_path, attempt(1, "train", 7200, "finished"), attempt(2, "train", 1800), attempt(3, "convert", 900))
    assert sum_hours(read_attempts(tmp_path), "train") == pytest.approx(0.5)
    assert sum_hours(read_attempts(tmp_path), "evaluate") == 0


KILLED = """
import sys, time
from pathlib import Path
from tuneline.core import meter
meter.RECORD_EVERY_S = 0.1
with meter.Meter(Path(sys.argv[1]), "train", meter.Limits(), 3600.0) as m:
    while True:
        m.record()
        print(m.seconds, flush=True)
        time.sleep(0.01)
"""


def test_what_was_killed_is_still_written_down(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    while (seconds := float(process.stdout.readline())) < 0.5:
        pass
    process.kill()
    process.wait()
    [killed] = read_attempts(tmp_path)
    assert killed.state == "running" and seconds - 0.4 < killed.seconds
    assert sum_spent_usd(tmp_path) >= seconds  # a dollar a second, and never less than it ran


def test_money_is_kept_for_stopping_and_the_run_remembers_what_it_cost(tmp_path: Path, now: list[float]) -> None:
    record(tmp_path, attempt(1, "train", 1800, price=6.0))
    limits = Limits(usd=5.0, stop_s=180)
    with Meter(tmp_path, "train", limits, 4.0) as meter:
        assert meter.usd == pytest.approx(3.0) and meter.reached() is None
        now[0] += 1619
        assert meter.reached() is None
        now[0] += 2
        assert meter.reached() == "usd"
        text = "compute.max_cost_usd: 5: 4.80 USD have been spent, and stopping takes 0.20; a checkpoint"
        assert text in str(meter.error("usd", "a checkpoint"))
    with pytest.raises(StageFailed, match="nothing was started; to continue, raise the limit"):
        Meter(tmp_path, "convert", limits, 4.0).__enter__()


def test_a_stop_that_takes_longer_than_granted_begins_earlier(tmp_path: Path, now: list[float]) -> None:
    meter = Meter(tmp_path, "train", Limits(hours=2.0, call_s=3600, stop_s=60), age_s=10)
    now[0] += 3580
    assert meter.reached() is None
    meter.stop_s = 60 + 11
    assert meter.reached() == "call"
    meter.stop_s = 30
    now[0] += 3600
    assert meter.reached() == "call"
    now[0] += 11
    assert meter.reached() == "hours"


def test_hours_count_over_attempts(tmp_path: Path, now: list[float]) -> None:
    record(tmp_path, attempt(1, "train", 3600), attempt(2, "train", 1800, "running"))
    limits = Limits(hours=2.0, hours_remedy="raise compute.train.hours")
    with Meter(tmp_path, "train", limits) as meter:
        now[0] += 1800 - RECORD_EVERY_S - 1
        assert meter.reached() is None
        now[0] += 2
        assert meter.reached() == "hours"
    with pytest.raises(
        StageFailed, match=r"train has used its time, 2 h, .*nothing was started; raise compute.train.hours"
    ):
        Meter(tmp_path, "train", limits).__enter__()
    with Meter(tmp_path, "train", Limits(hours=3.0)) as meter:
        meter.finish()
    Meter(tmp_path, "train", limits).__enter__()  # it is finished: making it again has all of its hours


def test_a_container_that_only_started_is_written_down_too(tmp_path: Path, now: list[float]) -> None:
    record(tmp_path, attempt(1, "train", 3590))
    published: list[str] = []
    limits = Limits(hours=1.0, hours_remedy="raise compute.train.hours")
    with pytest.raises(StageFailed, match="nothing was started"):
        Meter(tmp_path, "train", limits, 4.0, age_s=20, publish=lambda: published.append("")).__enter__()
    assert sum_hours(read_attempts(tmp_path), "train") == pytest.approx(3610 / 3600) and published
    with pytest.raises(StageFailed, match="nothing was started"):
        Meter(tmp_path, "train", limits, 4.0).__enter__()  # here nothing has begun
    assert len(read_attempts(tmp_path)) == 2


def test_a_damaged_record_is_called_by_its_name(tmp_path: Path) -> None:
    record(tmp_path, attempt(1, "train", 3600))
    file = next((tmp_path / FOLDER).iterdir())
    for content in (b"", b"{", b"[]", b'{"stage": "train"}', b"\xff"):
        file.write_bytes(content)
        with pytest.raises(StageFailed, match=rf"{file}: no record of an attempt .*; remove it"):
            Meter(tmp_path, "train", Limits())


def test_without_a_price_nothing_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(spending.PRICE_VARIABLE, raising=False)
    assert spending.read_usd_per_hour() is None
    for wrong in ("2,99", "nan", "inf", "-1"):
        monkeypatch.setenv(spending.PRICE_VARIABLE, wrong)
        with pytest.raises(BadRequest, match=rf"TUNELINE_USD_PER_HOUR={wrong}: a price in USD per hour"):
            spending.read_usd_per_hour()
    meter = Meter(tmp_path, "train", Limits(usd=5.0))
    monkeypatch.setattr(meters, "monotonic", lambda: 1e9)
    assert meter.reached() is None
