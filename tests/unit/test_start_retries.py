"""A version that cannot be started is not read and tried again with every look."""

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from tuneline.core.errors import StageFailed
from tuneline.endpoints import engine_pool
from tuneline.endpoints.engine_liveness import Liveness
from tuneline.endpoints.engine_pool import EnginePool
from tuneline.endpoints.promotion import Version
from tuneline.endpoints.start_retries import MOST_PAUSE_S, StartRetries

VERSION = {
    "number": 1,
    "run": "r1",
    "form": "gguf",
    "file": "convert/model.gguf",
    "context": 2048,
    "files": {"convert/model.gguf": "0" * 64},
    "convert": "c",
    "evaluate": "e",
    "at": datetime.now(UTC).isoformat(),
}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    (tmp_path / "policy" / "models").mkdir(parents=True)
    (tmp_path / "policy" / "models" / "router.json").write_text(json.dumps({"name": "router", "versions": [VERSION]}))
    file = tmp_path / "runs" / "r1" / "convert" / "model.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"damaged")
    return file


def test_a_look_reads_a_damaged_version_once_until_its_files_change(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, load = [], engine_pool.load_tool_selector
    monkeypatch.setattr(engine_pool, "load_tool_selector", lambda run: tries.append(run) or load(run))
    engines = EnginePool(("gguf",))
    try:
        with pytest.raises(StageFailed, match="router: "):
            engines.update()
        engines.update()
        assert len(tries) == 1 and engines.states() == {"router": "starting"}
        model.write_bytes(b"another file")
        with pytest.raises(StageFailed, match="router: "):
            engines.update()
        assert len(tries) == 2
    finally:
        engines.stop()


def test_pauses_grow_and_end_with_a_start_or_another_version(model: Path) -> None:
    now = 0.0
    retries, version = StartRetries(lambda: now), Version.model_validate(VERSION)
    pauses = []
    for _ in range(10):
        assert retries.is_due("router", version)
        retries.note_failure("router", version)
        began = now
        while not retries.is_due("router", version):
            now += 1.0
        pauses.append(now - began)
    assert pauses[:4] == [2, 4, 8, 16] and pauses[-1] == MOST_PAUSE_S
    retries.note_failure("router", version)
    assert retries.is_due("router", version.model_copy(update={"number": 2})) and retries.is_due("other", version)
    retries.note_start("router")
    assert retries.is_due("router", version)


def test_a_bug_in_one_name_holds_up_no_other(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its version is tried first with each look: the others were neither started nor drained."""
    other = {"name": "writer", "versions": [VERSION | {"run": "r2"}]}
    (model.parents[3] / "policy/models/writer.json").write_text(json.dumps(other))
    tries = []

    def fail(run: Path) -> None:
        tries.append(run.name)
        raise RuntimeError("a bug")

    monkeypatch.setattr(engine_pool, "load_tool_selector", fail)
    engines = EnginePool(("gguf",))
    try:
        with pytest.raises(StageFailed, match="router: a bug\nwriter: a bug"):
            engines.update()
        engines.update()
        assert tries == ["r1", "r2"]
    finally:
        engines.stop()


def test_a_server_whose_version_cannot_be_watched_is_stopped(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []

    @contextlib.contextmanager
    def serve(*_: object) -> Iterator[SimpleNamespace]:
        try:
            yield SimpleNamespace(base_url="http://127.0.0.1:1/v1")
        finally:
            stopped.append(True)

    def refuse(*_: object) -> Liveness:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(engine_pool, "load_tool_selector", lambda _: None)
    monkeypatch.setattr(engine_pool, "read_control_tokens", lambda _: None)
    engines = EnginePool(("gguf",), watch=refuse)
    monkeypatch.setattr(engines._starter, "serving", serve)
    try:
        with pytest.raises(StageFailed, match="new thread"):
            engines.update()
        assert stopped
    finally:
        engines.stop()
