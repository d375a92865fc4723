"""Files that a gateway follows and that cannot be opened for now: what they say counts as soon as they can."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tuneline.endpoints import keys
from tuneline.endpoints.gateway.key_index import KeyIndex
from tuneline.endpoints.gateway.settings_file import SettingsFile
from tuneline.endpoints.traffic.records import RecordReader, move


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    return tmp_path / "policy"


Unopened = Callable[[], pytest.MonkeyPatch]


@pytest.fixture
def crowded() -> Unopened:
    """What makes opening any file fail, as in a process that has too many open, until it is undone."""

    def begin() -> pytest.MonkeyPatch:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        patch = pytest.MonkeyPatch()
        patch.setattr(Path, "open", refuse)
        patch.setattr(Path, "read_text", refuse)
        return patch

    return begin


def test_a_key_that_was_revoked_meanwhile_is_refused(policy: Path, crowded: Unopened) -> None:
    kept, revoked = keys.add_key("kept"), keys.add_key("revoked")
    index = KeyIndex()
    assert index.find(revoked)
    keys.revoke_key("revoked")
    patch = crowded()
    assert index.find(kept)
    patch.undo()
    assert index.find(kept) and index.find(revoked) is None


def test_traffic_that_was_taken_back_meanwhile_is(policy: Path, crowded: Unopened) -> None:
    reader = RecordReader()
    move("router", "other", "50", by="ann")
    assert reader.step("router").step == "50"
    move("router", "other", "baseline", by="ann", held=True)
    patch = crowded()
    assert reader.step("router").step == "50"
    patch.undo()
    assert reader.step("router").step == "baseline"


def test_settings_that_were_edited_meanwhile_count(tmp_path: Path, crowded: Unopened) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump({"tasks": []}))
    settings = SettingsFile(file)
    file.write_text(yaml.safe_dump({"tasks": ["pricing"]}))
    patch = crowded()
    assert settings.refresh() is False and settings.mistake
    patch.undo()
    assert settings.refresh() is True and settings.current.tasks == ("pricing",) and not settings.mistake


def test_an_edit_that_names_no_examples_ends_no_gateway(tmp_path: Path) -> None:
    """The loop that reads the settings is one of those that end the process."""
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump({"tasks": ["pricing"]}))
    settings = SettingsFile(file)
    examples = {"pricing": [str(tmp_path / "none.jsonl")], "other": [str(tmp_path / "none.jsonl")]}
    file.write_text(yaml.safe_dump({"tasks": ["pricing"], "recognition": {"examples": examples}}))
    assert settings.refresh() is False
    assert "none.jsonl" in settings.mistake
