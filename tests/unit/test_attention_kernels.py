"""The kernels of the training image: one commit each, recorded where a run's manifest finds it."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi

from tuneline.core import artifacts
from tuneline.core.attention_kernels import VARIABLE, install_kernels, read_kernel_commits
from tuneline.images import train
from tuneline.images.packages import KERNELS

PINNED, NEWEST = "a" * 40, "b" * 40


def test_a_commit_is_installed_recorded_and_named_by_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed: dict[str, str] = {}
    hub = ModuleType("kernels")  # the package needs a GPU's image; what it downloads is beyond the network's edge
    hub.install_kernel = lambda name, revision: installed.update({name: revision})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kernels", hub)

    def list_repo_refs(self: HfApi, name: str, *, repo_type: str) -> Any:
        assert (name, repo_type) == ("x/free", "kernel")
        return SimpleNamespace(
            branches=[SimpleNamespace(name=n, target_commit=NEWEST if n == "v4" else "c" * 40) for n in ("main", "v4")]
        )

    monkeypatch.setattr(HfApi, "list_repo_refs", list_repo_refs)
    file = tmp_path / "kernels.json"
    install_kernels(file, [f"x/pinned@{PINNED}", "x/free"])
    assert installed == {"x/pinned": PINNED, "x/free": NEWEST}
    monkeypatch.setenv(VARIABLE, str(file))
    assert read_kernel_commits() == installed
    artifacts.read_versions.cache_clear()
    made = artifacts.make(tmp_path / "train", stage_version=1, settings={}, needs={}, build=lambda _: {})
    artifacts.read_versions.cache_clear()
    assert made.manifest.versions["x/pinned"] == PINNED and made.manifest.versions["x/free"] == NEWEST


def test_no_kernel_is_installed_from_a_branch() -> None:
    assert all(commit is None or (len(commit) == 40 and int(commit, 16)) for commit in KERNELS.values())
    assert "main" not in train.INSTALL_COMMAND and all(name in train.INSTALL_COMMAND for name in KERNELS)
