"""Metrics to Weights & Biases, without a network: its own offline mode, and a wandb that hangs, fails or is missing."""

import sys
import time
from pathlib import Path

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
    assert told == ["W&B: did not answer for 0 s and was left behind; the run has everything in events.jsonl"]


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
    assert told == ["W&B: wandb is not installed here, nothing is sent; `pip install wandb` brings it"]


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
    (written,) = tmp_path.glob("wandb/offline-run-*/run-demo-train.wandb")
    content = written.read_bytes()
    assert b"train/loss" in content and b"2.125" in content and b"train/samples" in content
    assert b"9.875" not in content


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
    assert told == ["W&B did not take the message: OSError: no network"]
