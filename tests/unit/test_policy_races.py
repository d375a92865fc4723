"""Policy changes by several processes at once: what was reported as done is in the record, and nothing else."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests.policy import find_owner
from tests.unit.test_policy import make_run
from tuneline.core import locks
from tuneline.core.errors import Locked
from tuneline.endpoints import keys, promotion

FORK = multiprocessing.get_context("fork")
Change = tuple[Callable[..., Any], str]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    return tmp_path


def apply_at_once(changes: list[Change]) -> list[Any]:
    """Apply each change in a process of its own, all at the same time, and return their results in order."""
    barrier = FORK.Barrier(len(changes))
    ends = [FORK.Pipe(duplex=False) for _ in changes]

    def work(change: Change, out: Connection) -> None:
        apply, argument = change
        barrier.wait()
        out.send(apply(argument))

    processes = [FORK.Process(target=work, args=(c, out)) for c, (_, out) in zip(changes, ends, strict=True)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return [received.recv() for received, _ in ends]


def test_no_key_stays_open_that_was_reported_as_revoked_and_none_is_lost() -> None:
    still_open, lost = [], []
    for turn in range(8):
        revoked = {owner: keys.add_key(owner) for owner in (f"old-{turn}-{number}" for number in range(4))}
        added = [f"new-{turn}-{number}" for number in range(4)]
        results = apply_at_once([*((keys.revoke_key, o) for o in revoked), *((keys.add_key, o) for o in added)])
        still_open += [owner for owner, key in revoked.items() if find_owner(key)]
        lost += [owner for owner, key in zip(added, results[4:], strict=True) if find_owner(key) != owner]
    assert (len(still_open), len(lost)) == (0, 0)


def test_every_promotion_that_was_reported_is_in_the_record_under_its_own_number(home: Path) -> None:
    runs = [f"run-{number}" for number in range(8)]
    for run in runs:
        make_run(home, run)
    promote = lambda run: promotion.promote(run, "router")  # noqa: E731
    reported = [version for _ in range(3) for version in apply_at_once([(promote, run) for run in runs])]
    versions = promotion.read_promotion("router").versions
    lost = [version for version in reported if version not in versions]
    assert (len(lost), [version.number for version in versions]) == (0, list(range(1, 25)))


def test_rollbacks_at_once_go_back_one_version_each(home: Path) -> None:
    for number in range(5):
        make_run(home, f"run-{number}")
        promotion.promote(f"run-{number}", "router")
    restored = apply_at_once([(promotion.rollback, "router")] * 4)
    assert sorted(version.run for version in restored) == ["run-0", "run-1", "run-2", "run-3"]
    assert promotion.read_promotion("router").current.run == "run-0"


def test_a_killed_process_releases_the_lock_and_a_stopped_one_is_named(home: Path) -> None:
    holding = FORK.Event()

    def hold() -> None:
        with locks.change_lock(home / "policy"):
            holding.set()
            signal.pause()

    process = FORK.Process(target=hold)
    process.start()
    assert holding.wait(30)
    with pytest.raises(Locked, match=f"process {process.pid} "), locks.change_lock(home / "policy", wait_s=0.2):
        pass
    os.kill(process.pid or 0, signal.SIGKILL)
    assert keys.add_key("maria")
    process.join()
    assert list(json.loads((home / "policy/keys.json").read_text())) == ["maria"]
