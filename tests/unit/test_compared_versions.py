"""Evidence is about the versions that are compared now, not about those that were promoted under these names before."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tuneline.configs.gateway import Gateway, Policy, Route, Target
from tuneline.endpoints.request_log.writer import LogWriter
from tuneline.endpoints.traffic.records import move
from tuneline.endpoints.traffic.rollouts import Rollout, Rollouts

BEGAN = datetime.now(UTC) - timedelta(hours=5)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    (tmp_path / "policy/models").mkdir(parents=True)
    for name in ("old", "new"):
        promote(tmp_path, name, 1, BEGAN)
    move("router", "other", "50", by="ann")
    return tmp_path


def promote(folder: Path, name: str, number: int, at: datetime) -> None:
    file = folder / "policy/models" / f"{name}.json"
    versions = json.loads(file.read_text())["versions"] if file.exists() else []
    version = {"number": number, "run": "r", "form": "gguf", "file": "convert/m.gguf", "context": 512}
    versions.append(version | {"convert": "c", "evaluate": "e", "at": at.isoformat()})
    file.write_text(json.dumps({"name": name, "versions": versions}))


def log(folder: Path, at: datetime, count: int, *, side: str = "candidate", **more: Any) -> None:
    writer, name = LogWriter(folder / "logs"), {"candidate": "new", "baseline": "old"}[side]
    for number in range(count):
        line = {"kind": "request", "id": f"req_{at.timestamp()}{side}{number}", "model": "router", "task": "other"}
        line |= {"assigned": side, "served": side, "step": "50", "move": 1, "unit": str(number), "at": at.isoformat()}
        writer.append(line | {"target": name, "answered_by": f"{name}-1", "outcome": "ok"} | more)
    writer.close()


def settings(candidate: str = "new") -> Gateway:
    policy = Policy(outcomes=("answered",))
    targets = {"baseline": Target(promoted="old"), "candidate": Target(promoted=candidate)}
    return Gateway(models={"router": Route(**targets, policy=policy)})


def look(rollouts: Rollouts) -> Rollout:
    [rollout] = rollouts.look()
    return rollout


@pytest.mark.parametrize("restarted", [False, True])
def test_another_version_keeps_the_step_and_begins_new_numbers(folder: Path, restarted: bool) -> None:
    """A candidate that was shown to be good would take its successor, of which nothing is known, a step up."""
    log(folder, BEGAN + timedelta(hours=1), 400)
    log(folder, BEGAN + timedelta(hours=1), 400, side="baseline")
    rollouts = Rollouts(settings, folder / "logs")
    assert look(rollouts).requests == 800 and look(rollouts).verdict.action == "advance"

    promoted = BEGAN + timedelta(hours=2)
    promote(folder, "new", 2, promoted)
    rollouts = Rollouts(settings, folder / "logs") if restarted else rollouts
    assert (look(rollouts).requests, look(rollouts).step.step, look(rollouts).verdict.action) == (0, "50", "wait")
    log(folder, promoted + timedelta(minutes=1), 7)  # the engine of the version before has some for a while
    log(folder, promoted + timedelta(minutes=2), 5, answered_by="new-2")
    log(folder, promoted + timedelta(minutes=2), 3, side="baseline")
    assert look(rollouts).requests == 8


def test_another_target_in_the_settings_begins_new_numbers(folder: Path) -> None:
    promote(folder, "newer", 1, BEGAN)
    log(folder, BEGAN + timedelta(hours=1), 30)
    now = settings()
    rollouts = Rollouts(lambda: now, folder / "logs")
    assert look(rollouts).requests == 30
    now = settings("newer")
    assert look(rollouts).requests == 0
    assert look(Rollouts(lambda: now, folder / "logs")).requests == 0


def test_a_record_that_breaks_leaves_the_numbers_as_they_were(folder: Path) -> None:
    log(folder, BEGAN + timedelta(hours=1), 30)
    rollouts = Rollouts(settings, folder / "logs")
    assert look(rollouts).requests == 30
    (folder / "policy/models/new.json").write_text("{")
    assert look(rollouts).requests == 30
