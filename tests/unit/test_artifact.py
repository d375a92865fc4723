"""Artifacts: a manifest means complete, unfinished work goes on, other settings are refused by name."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tuneline.core import artifacts
from tuneline.core.artifacts import (
    COMMIT_VARIABLE,
    DRAFT,
    MANIFEST,
    Artifact,
    is_finished,
    make,
    open_artifact,
    verify_files,
)
from tuneline.core.errors import NotFound, StageFailed, StaleArtifact
from tuneline.core.files import sha256, write_atomic
from tuneline.core.manifest import format_manifest, parse_manifest
from tuneline.core.paths import ROOT


def write(folder: Path) -> dict[str, Any]:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "a.txt").write_text("content")
    return {"rows": 3}


def made(
    path: Path,
    settings: Mapping[str, Any] = {"train": {"rank": 16, "seed": 0}},
    build: Callable[[Path], Mapping[str, Any]] = write,
    needs: Mapping[str, Artifact] = {},
    stage_version: int = 1,
) -> Artifact:
    return make(path, stage_version=stage_version, settings=settings, needs=needs, build=build)


def never(folder: Path) -> dict[str, Any]:
    raise AssertionError("built again")


def test_a_finished_artifact_is_returned_without_building(tmp_path: Path) -> None:
    first = made(tmp_path / "prepare")
    again = made(tmp_path / "prepare", build=never)
    assert again.manifest == first.manifest and again.metrics == {"rows": 3}
    assert first.manifest.stage == "prepare" and not (tmp_path / "prepare" / DRAFT).exists()


def test_the_manifest_records_each_file_and_survives_json(tmp_path: Path) -> None:
    artifact = made(tmp_path / "prepare")
    assert list(artifact.manifest.files) == ["sub/a.txt"]
    file = artifact.manifest.files["sub/a.txt"]
    assert (file.bytes, file.sha256) == (7, sha256(artifact.path / "sub" / "a.txt"))
    assert artifact.manifest.made_from.settings == {"train.rank": 16, "train.seed": 0}
    assert parse_manifest((artifact.path / MANIFEST).read_bytes()) == artifact.manifest


@pytest.mark.parametrize(("variable", "recorded"), [("", "unknown"), ("abc1234", "abc1234")])
def test_a_container_without_git_makes_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, recorded: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(COMMIT_VARIABLE, variable)
    artifacts.read_versions.cache_clear()
    try:
        assert made(tmp_path / "prepare").manifest.versions["tuneline"] == recorded
    finally:
        artifacts.read_versions.cache_clear()


def test_a_crash_keeps_the_work_and_the_next_call_goes_on(tmp_path: Path) -> None:
    def crash(folder: Path) -> dict[str, Any]:
        (folder / "scratch").mkdir()
        (folder / "scratch" / "half").write_text("half")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        made(tmp_path / "train", build=crash)
    assert not is_finished(tmp_path / "train") and (tmp_path / "train" / DRAFT).exists()
    with pytest.raises(NotFound, match="tuneline train"):
        open_artifact(tmp_path / "train")

    def go_on(folder: Path) -> dict[str, Any]:
        return {"found": (folder / "scratch" / "half").read_text()}

    artifact = made(tmp_path / "train", build=go_on)
    assert artifact.metrics == {"found": "half"} and not artifact.manifest.files
    assert not (tmp_path / "train" / "scratch").exists()


def test_unfinished_work_from_other_settings_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        made(tmp_path / "train", build=never)
    with pytest.raises(StaleArtifact, match=r"(?s)was begun.*train\.rank: 16 there, 32 now"):
        made(tmp_path / "train", {"train": {"rank": 32, "seed": 0}})


def test_a_stale_artifact_says_what_differs_and_what_to_do(tmp_path: Path) -> None:
    base, other = made(tmp_path / "base"), made(tmp_path / "other", {"x": 1})
    made(tmp_path / "train", needs={"fetch": base})
    with pytest.raises(StaleArtifact) as caught:
        made(tmp_path / "train", {"train": {"rank": 32, "seed": 0}, "new": True}, never, {"fetch": other}, 2)
    message = str(caught.value)
    for said in (
        "train.rank: 16 there, 32 now",
        "new: None there, True now",
        "needs.fetch",
        "stage_version: 1",
        "--run NEW",
    ):
        assert said in message
    assert "seed" not in message and caught.value.exit_code == 2
    assert open_artifact(tmp_path / "train").metrics == {"rows": 3}


def test_the_order_of_settings_is_no_difference(tmp_path: Path) -> None:
    made(tmp_path / "train", {"a": 1, "b": {"c": 2, "d": (1, 2)}})
    made(tmp_path / "train", {"b": {"d": [1, 2], "c": 2}, "a": 1}, never)
    made(tmp_path / "train", {"b": {"d": (1, 2), "c": 2}, "a": 1}, never)


@pytest.mark.parametrize("damage", [lambda f: f.unlink(), lambda f: f.write_text("longer than it was")])
def test_a_damaged_artifact_is_not_trusted(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    damage(made(tmp_path / "prepare").path / "sub" / "a.txt")
    with pytest.raises(StageFailed, match="a.txt"):
        open_artifact(tmp_path / "prepare")
    with pytest.raises(StageFailed, match="remove"):
        made(tmp_path / "prepare", build=never)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_one_flipped_bit_is_found_by_whoever_reads_the_files(tmp_path: Path) -> None:
    artifact = made(tmp_path / "convert")
    content = {"sub/a.txt": sha256(artifact.path / "sub/a.txt")}
    assert verify_files(artifact) == verify_files(artifact, "sub") == verify_files(artifact, "sub/a.txt") == content
    flip_a_bit(artifact.path / "sub/a.txt")
    assert open_artifact(artifact.path).manifest == artifact.manifest  # its size is the same
    with pytest.raises(StageFailed, match=r"a\.txt: its content .* remove .*convert and run again"):
        verify_files(artifact, "sub")
    with pytest.raises(NotFound, match="no file of this artifact"):
        verify_files(artifact, "su")


@pytest.mark.parametrize("linked", ["sub/a.txt", "sub"])
def test_a_link_in_place_of_a_file_is_not_followed(tmp_path: Path, linked: str) -> None:
    artifact = made(tmp_path / "convert")
    (artifact.path / linked).rename(tmp_path / "elsewhere")
    (artifact.path / linked).symlink_to(tmp_path / "elsewhere")
    assert (artifact.path / "sub/a.txt").read_text() == "content"  # the same size, and even the same bytes
    with pytest.raises(StageFailed, match=f"{linked}: is a link"):
        open_artifact(artifact.path)


@pytest.mark.parametrize("name", ["../outside.txt", "sub/../../outside.txt", "{folder}/outside.txt"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside.txt").write_text("content")
    manifest = made(tmp_path / "convert").manifest
    files = {name.format(folder=tmp_path): manifest.files["sub/a.txt"]}
    (tmp_path / "convert" / MANIFEST).write_text(format_manifest(manifest.model_copy(update={"files": files})))
    with pytest.raises(StageFailed, match="is outside"):
        open_artifact(tmp_path / "convert")


def test_a_link_is_not_sealed(tmp_path: Path) -> None:
    def link(folder: Path) -> dict[str, Any]:
        (folder / "model.gguf").symlink_to(tmp_path / "elsewhere")
        return {}

    (tmp_path / "elsewhere").write_text("a model")
    with pytest.raises(StageFailed, match=r"model\.gguf: is a link"):
        made(tmp_path / "convert", build=link)
    assert not is_finished(tmp_path / "convert")


def test_other_bytes_of_the_same_settings_are_another_artifact(tmp_path: Path) -> None:
    def train(folder: Path) -> dict[str, Any]:
        (folder / "weights").write_bytes(os.urandom(8))
        return {}

    trained = made(tmp_path / "train", build=train)
    made(tmp_path / "convert", needs={"train": trained})
    shutil.rmtree(tmp_path / "train")
    again = made(tmp_path / "train", build=train)
    assert (
        again.manifest.fingerprint == trained.manifest.fingerprint and again.manifest.digest != trained.manifest.digest
    )
    with pytest.raises(StaleArtifact, match=f"content of train: '{trained.manifest.digest}' there"):
        made(tmp_path / "convert", build=never, needs={"train": again})


def test_a_manifest_of_before_has_no_content_to_compare(tmp_path: Path) -> None:
    base = made(tmp_path / "base")
    file = made(tmp_path / "train", needs={"fetch": base}).path / MANIFEST
    record = json.loads(file.read_text())
    del record["made_from"]["needs_content"], record["checksum"]
    file.write_text(json.dumps(record))
    assert made(tmp_path / "train", build=never, needs={"fetch": base}).manifest.made_from.needs_content == {}


@pytest.mark.parametrize(
    ("whole", "damaged"),
    [
        ('"rows": 3', '"rows": 7'),  # a figure
        ('"rows"', '"rows_"'),
        ('"train.rank": 16', '"train.rank": 18'),
        ('"checksum"', '"checksun"'),
        ('"stage": "prepare"', '"stage": "prepara"'),
        ("{", ""),
        ("{", "[" * 100_000),
        ("p", "\xff"),
    ],
)
def test_a_damaged_manifest_is_not_trusted(tmp_path: Path, whole: str, damaged: str) -> None:
    manifest = made(tmp_path / "prepare").path / MANIFEST
    content = manifest.read_bytes()
    assert whole.encode() in content
    manifest.write_bytes(content.replace(whole.encode(), damaged.encode("latin-1"), 1))
    with pytest.raises(
        StageFailed, match=r"manifest\.json: incomplete or damaged manifest: .*; remove .*prepare and run again"
    ):
        open_artifact(tmp_path / "prepare")


@pytest.mark.parametrize("draft", [b"", b"{}", b"[]", b"[" * 100_000, b"\xff", b'{"made_from": {}, "seconds": "x"}'])
def test_a_damaged_draft_is_not_continued(tmp_path: Path, draft: bytes) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / DRAFT).write_bytes(draft)
    with pytest.raises(
        StageFailed, match=r"draft\.json: incomplete or damaged draft: .*; remove .*train and run again"
    ):
        made(tmp_path / "train", build=never)


def test_a_kill_in_the_middle_never_looks_finished(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from tuneline.core.artifacts import make\n"
        "def build(f):\n (f / 'a').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "make(Path(sys.argv[1]), stage_version=1, settings={'a': 1}, needs={}, build=build)"
    )
    path = tmp_path / "train"
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL and not is_finished(path)
    assert made(path, {"a": 1}, lambda f: {"kept": (f / "a").read_text()}).metrics == {"kept": "x"}


KILLED_WRITE = """
import os, signal, sys
from pathlib import Path
from tuneline.core.artifacts import make
from tuneline.core.files import write_atomic
def build(folder):
    (folder / "sub").mkdir(exist_ok=True)
    write_atomic(folder / "sub" / "verdict.json", "whole")
    os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    write_atomic(folder / "sub" / "verdict.json", "half")
make(Path(sys.argv[1]), stage_version=1, settings={"a": 1}, needs={}, build=build)
"""


def test_what_a_killed_write_leaves_is_never_part_of_the_artifact(tmp_path: Path) -> None:
    path = tmp_path / "evaluate"
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITE, str(path)], cwd=ROOT, check=False)
    (left,) = (file for file in path.rglob(".*") if file.is_file())
    assert killed.returncode == -signal.SIGKILL and left.read_text() == "half"
    artifact = made(path, {"a": 1}, lambda folder: {"was": (folder / "sub" / "verdict.json").read_text()})
    assert artifact.metrics == {"was": "whole"} and list(artifact.manifest.files) == ["sub/verdict.json"]
    assert not left.exists() and open_artifact(path).manifest == artifact.manifest


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write_atomic(path, json.dumps({"old": 1}))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert json.loads(path.read_text()) == {"old": 1} and [f.name for f in tmp_path.iterdir()] == ["file.json"]
