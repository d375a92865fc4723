"""Metrics to Weights & Biases, without a network: its own offline mode, and a wandb that hangs, fails or is missing."""

import json
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tuneline.core import tracking
from tuneline.core.events import Events
from tuneline.core.notification import notify
from tuneline.core.tracking import track


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.chdir(tmp_path)
    return []


def fake(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `wandb` that is found before the real one."""
    (folder / "fake").mkdir()
    (folder / "fake/wandb.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder / "fake"))


def test_without_a_key_or_where_it_is_turned_off_nothing_starts(
    told: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tracking.subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with track(tmp_path / "demo", "train", {}, told.append):
        pass
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.delenv("WANDB_MODE")
    with track(tmp_path / "demo", "train", {}, told.append):
        pass
    assert list(tmp_path.iterdir()) == [] and not told


def test_a_wandb_that_hangs_costs_a_run_nothing_and_is_left_behind(
    told: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake(tmp_path, "import time\nprint('it hangs', flush=True)\ntime.sleep(600)\n", monkeypatch)
    monkeypatch.setattr(tracking, "END_S", 0.5)
    began = time.monotonic()
    with track(tmp_path / "demo", "train", {}, told.append):
        for step in range(100):
            Events(tmp_path / "demo", "train").emit("metrics", step=step, loss=2.0)
        inside = time.monotonic() - began
    assert inside < 60 and time.monotonic() - began < 300  # 600 s if anybody waited
    assert told == ["W&B: did not answer for 0 s and was stopped; all metrics are in the run's events.jsonl"]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise OSError('no disk')", "no disk"),
        ("Settings = dict\ndef init(**_): raise TimeoutError('it is down')", "is down"),
    ],
)
def test_a_wandb_that_fails_is_told_and_the_run_goes_on(
    told: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, says: str
) -> None:
    fake(tmp_path, code, monkeypatch)
    monkeypatch.setattr(tracking, "END_S", 120)
    with track(tmp_path / "demo", "train", {}, told.append):
        went_on = True
    assert went_on and "W&B: ended with 1" in told[0]
    assert says in (tmp_path / "demo/logs/wandb.log").read_text()


def test_a_missing_wandb_is_told(told: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with track(tmp_path / "demo", "train", {}, told.append):
        pass
    assert told == ["W&B: wandb is not installed, so nothing is sent; `pip install wandb`"]


def test_metrics_and_samples_are_written(told: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setattr(tracking, "END_S", 120)
    Events(tmp_path / "demo", "train").emit("metrics", step=1, loss=9.875)  # of an attempt before
    with track(tmp_path / "demo", "train", {"rank": 8}, told.append):
        events = Events(tmp_path / "demo", "train")
        events.emit("progress", done=1)
        events.emit("metrics", step=2, loss=2.125)
        events.emit("sample", step=2, samples=[{"prompt": "a?", "wanted": "b", "got": "c"}])
    assert not told
    (written,) = tmp_path.glob("wandb/offline-run-*/run-demo-*.wandb")
    content = written.read_bytes()
    assert b"train/loss" in content and b"2.125" in content and b"train/samples" in content
    assert b"9.875" not in content


RECORD = """
import json
Settings = dict
class Session:
    def log(self, values, step): pass
    def define_metric(self, *_, **__): pass
    class config: update = staticmethod(lambda *_, **__: None)
    def alert(self, **_): pass
    def __enter__(self): return self
    def __exit__(self, *_): pass
def init(**given):
    with open("inits", "a") as out: out.write(json.dumps(given) + "\\n")
    return Session()
"""
"""A wandb that keeps what each of its runs was opened with."""


def begin(run: Path, stage: str, told: list[str]) -> None:
    """An attempt at a stage that does not end."""
    (run / stage).mkdir(parents=True, exist_ok=True)
    with track(run, stage, {}, told.append):
        (run / stage / "draft.json").write_text("{}")


def test_all_stages_of_a_run_are_one_run_and_runs_of_one_name_are_not(
    told: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake(tmp_path, RECORD, monkeypatch)
    monkeypatch.setattr(tracking, "END_S", 120)
    mine, theirs = tmp_path / "mine/demo", tmp_path / "theirs/demo"
    for run, stage in ((mine, "prepare"), (mine, "train"), (mine, "train"), (theirs, "train"), (mine, "convert")):
        begin(run, stage, told)  # of the second training the draft says that it goes on
    (mine / "train/draft.json").unlink()
    for stage in ("train", "convert"):  # made again
        (mine / stage / "draft.json").unlink(missing_ok=True)
        begin(mine, stage, told)
    opened = [json.loads(line) for line in (tmp_path / "inits").read_text().splitlines()]
    prepare, train, resumed, other, convert, again, converted_again = (one["id"] for one in opened)
    assert not told and prepare == train == resumed == convert and again == converted_again
    assert len({train, other, again}) == 3 and {one["name"] for one in opened} == {"demo"}


def test_steps_rise_over_stages_and_each_stage_has_its_own_axis(
    told: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As the real package writes them: a step that is not above the last one would be dropped."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setattr(tracking, "END_S", 120)
    for stage, settings in (("train", {"train": {"rank": 8}}), ("convert", {"convert": {"types": ["F16"]}})):
        with track(tmp_path / "demo", stage, settings, told.append):
            for step in (1, 2):
                Events(tmp_path / "demo", stage).emit("metrics", step=step, loss=1.0)
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime)
    records = [read_records(file) for file in files]
    assert not told and len({record.run.run_id for each in records for record in each if record.run.run_id}) == 1
    steps = [
        record.history.step.num for each in records for record in each if record.WhichOneof("record_type") == "history"
    ]
    assert len(steps) == 4 and steps == sorted(set(steps))
    axes = {
        record.metric.glob_name: record.metric.step_metric
        for each in records
        for record in each
        if record.metric.glob_name
    }
    assert axes == {"train/*": "train/step", "convert/*": "convert/step"}
    written = [{item.key or item.nested_key[0] for record in each for item in record.config.update} for each in records]
    assert "train" in written[0] and "convert" in written[1]


def read_records(file: Path) -> list[Any]:
    """LevelDB's log format after a header of seven bytes: blocks of 32 KiB; pieces have checksum, length, type."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, held, records = file.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if (left := -at % 32768) and left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        held, at = held + content[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last piece
            records.append(Record.FromString(held))
            held = b""
    return records


def test_an_unreadable_file_of_ids_costs_a_new_one(
    told: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake(tmp_path, RECORD, monkeypatch)
    (tmp_path / "demo/train").mkdir(parents=True)
    (tmp_path / "demo/train/draft.json").write_text("{}")
    (tmp_path / "demo/wandb.json").write_text("[1, ")
    with track(tmp_path / "demo", "train", {}, told.append):
        pass
    assert not told and json.loads((tmp_path / "inits").read_text())["id"].startswith("demo-")


def test_a_notice_is_an_alert(told: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record = "open('alerts', 'a').write(repr(given))"
    session = f"class Session:\n  def alert(self, **given): {record}\n  def __enter__(self): return self\n"
    fake(
        tmp_path,
        f"Settings = dict\n{session}  def __exit__(self, *_): pass\ndef init(**_): return Session()",
        monkeypatch,
    )
    monkeypatch.delenv("TUNELINE_WEBHOOK", raising=False)
    assert not notify("router got worse", name="router")  # no webhook
    assert (tmp_path / "alerts").read_text() == repr({"title": "router: notice", "text": "router got worse"})
    (tmp_path / "fake/wandb.py").write_text("raise OSError('no network')")
    tracking.alert("router", "router got worse", told.append)
    assert told == ["W&B did not accept the message: OSError: no network"]
