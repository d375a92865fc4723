"""A rehearsal that all tests share, and the real `modal` command in it."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.recipe import ROOT
from rehearsal.command import Rehearsal
from rehearsal.worker import NO_NAMESPACES, namespaces_allowed
from tests.conftest import CACHE

MODAL = str(Path(sys.executable).with_name("modal"))
APPS = Path(__file__).parent / "apps"


class Cloud:
    """The real `modal` and `tuneline` commands, against whatever `environment` points them to."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def start(self, *words: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            words,
            env=os.environ | self.environment | {"TUNELINE_CACHE": CACHE, "COLUMNS": "200"} | environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def modal(self, *words: str, code: int = 0, **environment: str) -> str:
        return self._ended(self.start(MODAL, *words, **environment), code)

    def tuneline(self, *words: str, code: int = 0) -> str:
        return self._ended(self.start(sys.executable, "cli.py", *words), code)

    def _ended(self, process: "subprocess.Popen[str]", code: int) -> str:
        out, _ = process.communicate()
        assert process.returncode == code, f"exit {process.returncode}\n{out}"
        return out


class Stage(Cloud):
    """A running plane, and how to act on it."""

    def __init__(self, rehearsal: Rehearsal, folder: Path) -> None:
        super().__init__(rehearsal.environment)
        self.rehearsal, self.folder = rehearsal, folder

    def deployed(self, app: str) -> dict[str, Any]:
        """What an app declared: `functions`, by name."""
        return self.rehearsal.deployed(app)

    def volume(self, name: str) -> Path:
        """Its committed state."""
        return self.folder / "volumes" / f"tuneline-{name}"

    def ask(self, path: str, body: dict[str, Any] | None = None, *, post: bool = False) -> Any:
        data = json.dumps(body or {}).encode() if post or body else None
        with urllib.request.urlopen(f"{self.rehearsal.address}/rehearsal/{path}", data, timeout=600) as answer:
            return json.load(answer)


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if not namespaces_allowed():
        pytest.skip(NO_NAMESPACES)
    os.environ.setdefault("TUNELINE_CACHE", CACHE)
    folder = tmp_path_factory.mktemp("rehearsal")
    with Rehearsal(folder) as rehearsal:
        yield Stage(rehearsal, folder)


def eventually(true: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
