"""The ledger: what was spent is written while it is spent, and adds up to what the runs say of themselves."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from tuneline.cli import app
from tuneline.configs.evaluation import Target
from tuneline.core import jsonl, ledger
from tuneline.core import meter as meters
from tuneline.core.current_run import current_run
from tuneline.core.errors import StageFailed
from tuneline.core.ledger import Line, read_ledger, sum_days
from tuneline.core.meter import Limits, Meter
from tuneline.core.spending import FOLDER, Attempt, read_attempts, sum_spent_usd
from tuneline.engines import chat_messages
from tuneline.stages.evaluate.clients.budgeted_model import BudgetedModel
from tuneline.stages.evaluate.clients.openai_client import Prompts
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.runs.paid_answers import read_paid_answers
from tuneline.volumes.container_meter import ContainerMeter

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


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of meters; a test sets it."""
    clock = [1000.0]
    monkeypatch.setattr(meters, "monotonic", lambda: clock[0])
    return clock


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("runs", "cache"):
        monkeypatch.setenv(f"TUNELINE_{name.upper()}", str(tmp_path / name))
    return tmp_path / "runs"


def spend(
    run: Path, stage: str, seconds: float, now: list[float], price: float | None = None, fails: bool = False
) -> None:
    try:
        with Meter(run, stage, Limits(), price, price_source="hardware.yaml of 2026-05-01", where="modal") as meter:
            for _ in range(3):
                now[0] += seconds / 3
                meter.record()
            if fails:
                raise StageFailed("diverged")
            meter.finish()
    except StageFailed:
        pass


def test_the_ledger_is_what_the_runs_say_also_of_failed_killed_and_free_attempts(
    tmp_path: Path, now: list[float]
) -> None:
    spend(tmp_path / "runs/a", "prepare", 600, now)
    spend(tmp_path / "runs/a", "train", 3600, now, price=4.0, fails=True)
    spend(tmp_path / "runs/a", "train", 1800, now, price=8.0)
    spend(tmp_path / "runs/b", "train", 900, now, price=2.0)
    words = [sys.executable, "-c", KILLED, str(tmp_path / "runs/b")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while float(process.stdout.readline()) < 0.3:
            pass
        process.send_signal(signal.SIGKILL)
    spent = read_ledger(tmp_path / "runs")
    for name in ("a", "b"):
        run, of_run = tmp_path / "runs" / name, [line for line in spent if line.name == name]
        assert sum(line.usd for line in of_run) == pytest.approx(sum_spent_usd(run), abs=1e-9)
        seconds = sum(attempt.counted_s for attempt in read_attempts(run))
        assert sum(line.hours for line in of_run) == pytest.approx(seconds / 3600, abs=1e-9)
    assert sum_spent_usd(tmp_path / "runs/a") == pytest.approx(8.0, abs=0.01)
    prices = {(line.name, line.stage): (line.where, line.price) for line in spent}
    assert prices["a", "prepare"] == ("modal", "not billed")
    assert prices["a", "train"] == ("modal", "hardware.yaml of 2026-05-01")
    shutil.rmtree(tmp_path / "runs/a")
    assert sum(line.usd for line in read_ledger(tmp_path / "runs") if line.name == "a") == pytest.approx(8.0, abs=0.01)


def test_an_attempt_over_midnight_is_of_two_days(monkeypatch: pytest.MonkeyPatch) -> None:
    def line(at: datetime, seconds: float, state: str) -> Line:
        taken = Attempt.model_validate(
            {"stage": "train", "began": 0, "seconds": seconds, "usd_per_hour": 6.0, "state": state}
        )
        return Line(at=at.timestamp(), kind="run", name="a", attempt="1", where="modal", price="p", taken=taken)

    evening, morning = datetime(2026, 11, 29, 23, 50, tzinfo=UTC), datetime(2026, 11, 30, 0, 20, tzinfo=UTC)
    hours = {each.day: each.hours for each in sum_days([line(morning, 3000, "ended"), line(evening, 1200, "running")])}
    assert hours == {date(2026, 11, 29): pytest.approx(1200 / 3600), date(2026, 11, 30): pytest.approx(1800 / 3600)}


def test_a_cut_line_and_damage_cost_one_line_and_older_attempts_are_counted(tmp_path: Path, now: list[float]) -> None:
    spend(tmp_path / "runs/a", "train", 3600, now, price=4.0)
    file = tmp_path / "runs" / ledger.FOLDER / "a.jsonl"
    with file.open("ab") as out:
        out.write(b'{"at": 1}\n[]\n{"at": 17')
    spend(tmp_path / "runs/a", "train", 3600, now, price=4.0)
    assert sum(line.usd for line in read_ledger(tmp_path / "runs")) == pytest.approx(8.0)
    file.unlink()  # of a version without a ledger
    spent = read_ledger(tmp_path / "runs")
    assert sum(line.usd for line in spent) == pytest.approx(8.0) and {line.where for line in spent} == {"unknown"}
    next((tmp_path / "runs/a" / FOLDER).iterdir()).write_text("{")
    assert sum(line.usd for line in read_ledger(tmp_path / "runs")) == pytest.approx(4.0)


def test_a_container_of_an_endpoint_writes_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneline.volumes.container_meter.process_age_s", lambda: 10.0)
    meter, began = ContainerMeter("endpoint", "engines", 2.0, tmp_path), meters.time()
    for minute in range(1, 61):
        monkeypatch.setattr("tuneline.volumes.container_meter.time.time", lambda at=began + 60 * minute: at)
        assert meter.record() and not meter.record()
    ContainerMeter("endpoint", "engines", 2.0, tmp_path).record()  # another at the same time
    assert sum(line.usd for line in read_ledger(tmp_path)) == pytest.approx(2.0, abs=0.1)
    assert len(list((tmp_path / ledger.FOLDER).iterdir())) == 2


def test_cost_shows_runs_and_paid_answers_by_day_and_by_name(
    runs: Path, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_LOGS", str(runs.parent / "logs"))
    assert CliRunner().invoke(app, ["cost"]).output == "nothing was spent yet\n"
    spend(runs / "a", "train", 3600, now, price=4.0, fails=True)
    spend(runs / "b", "prepare", 60, now)
    (runs.parent / "logs/requests").mkdir(parents=True)
    for usd, target in ((0.25, "openai:gpt"), (0.5, "openai:gpt"), (0.0, "router")):
        request = {"kind": "request", "usd": usd, "target": target, "at": "2026-11-30T10:00:00.000+00:00"}
        jsonl.append(runs.parent / "logs/requests/2026-11-30-host-1.jsonl", request)
    table = CliRunner(env={"COLUMNS": "120"}).invoke(app, ["cost"]).output
    rows = {line.split()[0]: line.split() for line in table.splitlines() if line.strip()}
    assert rows["a"][1:4] == ["modal", "1.000", "4.0000"] and rows["b"][3] == "0.0000"
    assert rows["openai:gpt"][3] == "0.7500" and "router" not in rows
    assert rows["total"] == ["total", "1.017", "h,", "4.7500", "USD"]
    lines = json.loads(CliRunner().invoke(app, ["cost", "--json"]).output)
    assert sum(line["usd"] for line in lines) == pytest.approx(4.75) and {line["kind"] for line in lines} == {
        "run",
        "endpoint",
    }
    assert json.loads(CliRunner().invoke(app, ["cost", "--json", "--since", "2100-01-01"]).output or "[]") == []


class Provider:
    """A provider at the edge of the network: a thousand tokens an answer."""

    provider = SimpleNamespace(base_url="http://127.0.0.1:1/v1")

    async def ask(self, *_: Any, **__: Any) -> chat_messages.Answer:
        return chat_messages.Answer("yes", (), (), "stop", prompt_tokens=0, completion_tokens=1000, latency_s=0.1)


def test_paid_answers_count_by_model_and_stage_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path))
    prices = {"usd_per_million_input": 1.0, "usd_per_million_output": 10.0, "budget_usd": 1.0}
    target = Target.model_validate({"name": "big", "provider": "http://127.0.0.1:1/v1", "model": "gpt", **prices})
    current_run.set("mine")
    for question in ("a?", "b?", "a?"):
        model = BudgetedModel(target, cast(Any, Provider()), Prompts("", None))
        asyncio.run(model.ask(Item(question, question, None, None, question), []))
    (spent,) = read_paid_answers(tmp_path)
    assert (spent.name, spent.stage, spent.usd) == (
        "gpt for mine",
        "evaluate",
        pytest.approx(0.02),
    )  # the third was kept
    (tmp_path / "synthesis").mkdir()
    jsonl.append(tmp_path / "synthesis/1.jsonl", {"prompt": "p", "text": "t", "cost_usd": 0.5})  # without a time
    jsonl.append(tmp_path / "synthesis/1.jsonl", [])
    lines = read_paid_answers(tmp_path)
    assert sum(line.usd for line in lines) == pytest.approx(0.52)
    assert "a model that was not kept, paid by an earlier version, which kept no run" in [line.name for line in lines]
