"""A large file is hashed once, and again after whatever could have changed it."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tuneline.core import hash_cache
from tuneline.core.files import sha256


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_cache, "CACHED_BYTES", 4)
    monkeypatch.setattr(hash_cache, "SETTLED_S", 0.02)  # a clock's tick is 10 ms at most
    (tmp_path / "model.gguf").write_bytes(b"a model")
    return tmp_path / "model.gguf"


def settle(file: Path) -> None:
    while time.time_ns() - file.stat().st_ctime_ns < 25e6:
        pass


def test_it_is_read_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(file)
    digest = hash_cache.cached_sha256(file)
    monkeypatch.setattr(hash_cache, "sha256", lambda _: pytest.fail("read again"))
    assert hash_cache.cached_sha256(file) == digest


def rewrite(file: Path) -> None:
    """The same size, and the time set back."""
    before = file.stat()
    file.write_bytes(b"a modem")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(file: Path) -> None:
    before = file.stat()
    file.with_name("new").write_bytes(b"a modem")
    os.utime(file.with_name("new"), ns=(before.st_atime_ns, before.st_mtime_ns))
    file.with_name("new").replace(file)


@pytest.mark.parametrize("change", [rewrite, replace])
def test_other_content_is_another_hash(file: Path, change: Callable[[Path], None]) -> None:
    settle(file)
    before = hash_cache.cached_sha256(file)
    change(file)
    assert hash_cache.cached_sha256(file) == sha256(file) != before


def test_what_the_cache_holds_must_be_a_hash(file: Path, tmp_path: Path) -> None:
    settle(file)
    digest = hash_cache.cached_sha256(file)
    (cached,) = (tmp_path / "cache/hashes").iterdir()
    cached.write_text(digest[:9])
    assert hash_cache.cached_sha256(file) == digest == cached.read_text()


def test_a_cache_that_cannot_be_written_costs_time_alone(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    assert hash_cache.cached_sha256(file) == sha256(file)


def test_what_was_just_written_is_not_remembered(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_cache, "SETTLED_S", 60)
    assert hash_cache.cached_sha256(file) == sha256(file) and not (tmp_path / "cache").exists()
