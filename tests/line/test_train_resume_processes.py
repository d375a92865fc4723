"""Two processes killed in the second and the third epoch end with the bytes of two that were not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.line import small
from tuneline.configs.recipe import Recipe
from tuneline.core.paths import ROOT

LONG: dict[str, Any] = {"max_steps": None, "epochs": 2.5, "dropout": 0.1, "evaluate_steps": 2, "save_steps": 1}
"""Two and a half epochs; dropout, so that every process's random state matters."""
KILLER = """
import sys
from pathlib import Path
from tests.line import small
from tuneline.configs.recipe import Recipe

small.train(Path(sys.argv[1]), sys.argv[2], Recipe.model_validate_json(sys.argv[3]))
"""


def weighted(folder: Path, strategy: str, **changes: Any) -> Recipe:
    """The weighted recipe, for two processes."""
    compute = {"processes": 2, "strategy": strategy, "micro_batch_rows": changes["batch_rows"] // 4 or 1}
    return small.weighted(folder, compute, **LONG | changes)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    return small.fetched_and_prepared(folder, weighted(folder, "ddp", batch_rows=24))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "packing"),
    [
        ("ddp", False),
        ("fsdp2", False),
        ("ddp", True),
    ],
)
def test_two_killed_processes_end_with_the_same_bytes(here: Path, strategy: str, packing: bool) -> None:
    wanted = weighted(here, strategy, packing=packing, batch_rows=2 if packing else 24)
    if packing:  # into more lines than two, which would be one step an epoch
        wanted = wanted.model_copy(update={"data": wanted.data.model_copy(update={"max_tokens": 512})})
    whole, killed = f"whole-{strategy}-{packing}", f"killed-{strategy}-{packing}"
    steps = round(small.train(here, whole, wanted)["steps"])
    for step in (steps * 3 // 5, steps - 1):
        kill_at(here, killed, wanted, step)
    small.train(here, killed, wanted)
    epochs = [event["epoch"] for event in small.events(here, killed, "metrics") if "loss" in event]
    assert max(epochs) == pytest.approx(2.5, abs=0.4) and steps >= 5
    last = dict(zip(steps_of(here, killed), small.losses(here, killed), strict=True))
    assert last == dict(zip(steps_of(here, whole), small.losses(here, whole), strict=True))
    adapters = [(here / run / "train/adapter/adapter_model.safetensors").read_bytes() for run in (whole, killed)]
    assert adapters[0] == adapters[1]


def steps_of(here: Path, name: str) -> list[int]:
    return [event["step"] for event in small.events(here, name, "metrics") if "loss" in event]


def kill_at(here: Path, name: str, wanted: Recipe, step: int) -> None:
    """Kill the training and its processes at once when it reports `step`."""
    command = [sys.executable, "-c", KILLER, str(here), name, wanted.model_dump_json()]
    child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True)
    events, deadline = here / name / "events.jsonl", time.monotonic() + 300
    while not any(reached(line, step) for line in lines(events)):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    workers = (here / name / "train/scratch/pids").iterdir()
    for pid in [*(int(file.name.partition("@")[0]) for file in workers), child.pid]:
        os.kill(pid, signal.SIGKILL)
    child.wait()


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def reached(line: str, step: int) -> bool:
    try:
        event = json.loads(line)
    except ValueError:
        return False
    return event["kind"] == "metrics" and "loss" in event and event["step"] >= step
