"""Metrics to Weights & Biases, without a network: its own offline mode, read back from what it wrote."""

import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from stages.notify import notify
from stages.tracking import tracked


def test_without_a_key_nothing_is_tracked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.chdir(tmp_path)
    with tracked("demo", "train", {}) as track:
        track({"kind": "metrics", "step": 1, "loss": 2.0})
    assert list(tmp_path.iterdir()) == []


def test_metrics_are_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    with tracked("demo", "train", {"rank": 8}) as track:
        track({"kind": "progress", "done": 1})
        track({"kind": "metrics", "step": 1, "loss": 2.125})
    (written,) = tmp_path.glob("wandb/offline-run-*/run-demo-train.wandb")
    assert b"train/loss" in written.read_bytes() and b"2.125" in written.read_bytes()


def test_a_notice_is_an_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = MagicMock()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("TUNELINE_WEBHOOK", raising=False)
    assert not notify("router got worse", name="router")  # no webhook
    alert = wandb.init.return_value.__enter__.return_value.alert
    alert.assert_called_once_with(title="router: notice", text="router got worse")
    wandb.init.side_effect = OSError("no network")
    notify("router got worse", name="router")  # nothing is lost for it
