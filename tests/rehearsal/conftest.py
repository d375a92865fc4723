"""A rehearsal that all tests share, and the real `modal` command in it."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CACHE, MICRO
from tuneline.core.paths import ROOT
from tuneline.images.source import FOLDERS
from tuneline.rehearsal.containers import PREEMPTION_GRACE_S
from tuneline.rehearsal.session import Rehearsal
from tuneline.rehearsal.state import Checkout as VolumeCopy
from tuneline.rehearsal.worker import NO_NAMESPACES_MESSAGE, can_make_namespaces

MODAL = str(Path(sys.executable).with_name("modal"))
APPS = Path(__file__).parent / "apps"


class Cloud:
    """The real `modal` and `tuneline` commands, against whatever `environment` points them to."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def start(self, *words: str, cwd: Path = ROOT, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            words,
            env=os.environ | self.environment | {"TUNELINE_CACHE": CACHE, "COLUMNS": "200"} | environment,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def modal(self, *words: str, code: int = 0, cwd: Path = ROOT, **environment: str) -> str:
        return self._ended(self.start(MODAL, *words, cwd=cwd, **environment), code)

    def tuneline(self, *words: str, code: int = 0) -> str:
        return self._ended(self.start(sys.executable, "-m", "tuneline", *words), code)

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
        headers = {"Authorization": f"Bearer {self.environment['MODAL_TOKEN_SECRET']}"}
        request = urllib.request.Request(f"{self.rehearsal.address}/rehearsal/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if not can_make_namespaces():
        pytest.skip(NO_NAMESPACES_MESSAGE)
    os.environ.setdefault("TUNELINE_CACHE", CACHE)
    folder = tmp_path_factory.mktemp("rehearsal")
    with Rehearsal(folder) as rehearsal:
        yield Stage(rehearsal, folder)


class Checkout:
    """A copy of Tuneline that a test may change; `run` is `modal run app.py::VERB` in it."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage, self.folder = stage, folder
        for name in (*FOLDERS, "ui"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "tuneline", folder / "tuneline", symlinks=True)
        shutil.copy(ROOT / "app.py", folder)

    def change(self, file: str, before: str, after: str) -> None:
        text = (self.folder / file).read_text()
        assert text.count(before) == 1
        (self.folder / file).write_text(text.replace(before, after))

    def run(self, verb: str, recipe: Path, run: str, *words: str, code: int = 0) -> str:
        return self.modal("run", f"app.py::{verb}", "--recipe", str(recipe), "--run", run, *words, code=code)

    def start(self, verb: str, recipe: Path, run: str, *words: str) -> "subprocess.Popen[str]":
        words = ("run", f"app.py::{verb}", "--recipe", str(recipe), "--run", run, *words)
        return self.stage.start(MODAL, *words, cwd=self.folder)

    def modal(self, *words: str, code: int = 0) -> str:
        return self.stage.modal(*words, code=code, cwd=self.folder)


@pytest.fixture
def checkout(stage: Stage, tmp_path: Path) -> Checkout:
    return Checkout(stage, tmp_path / "tuneline")


@pytest.fixture
def endless(checkout: Checkout) -> Checkout:
    """Its `prepare` shows progress and never ends."""
    checkout.change(
        "stages/prepare/__init__.py",
        "    data = recipe.data\n    catalogue = load",
        "    import time\n\n    for second in range(10**6):\n        events.progress(second, 10**6, 'seconds')\n"
        "        time.sleep(0.5)\n    data = recipe.data\n    catalogue = load",
    )
    return checkout


@pytest.fixture(scope="session")
def told(stage: Stage) -> Iterator[list[Any]]:
    """What a webhook was told; the secret with its address is there."""
    messages: list[Any] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stage.rehearsal.plane.let_through.append(server.server_port)
        address = f"http://127.0.0.1:{server.server_port}/hook"
        stage.modal("secret", "create", "tuneline-webhook", f"TUNELINE_WEBHOOK={address}")
        yield messages
        server.shutdown()


@pytest.fixture(scope="session")
def watched(stage: Stage, told: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with the schedule, the webhook and the proxy token turned on."""
    checkout = Checkout(stage, tmp_path_factory.mktemp("watched") / "tuneline")
    checkout.change("configs/cloud.yaml", "\nsecrets: []", "\nsecrets: [webhook]")
    checkout.change("configs/cloud.yaml", "cron: null", 'cron: "0 6 * * 1"')
    checkout.change("configs/cloud.yaml", "  secrets: []", "  secrets: [tuneline-proxy]")
    return checkout


@pytest.fixture(scope="session")
def cloud(stage: Stage) -> Path:
    """A whole micro run on Modal, with its training preempted as soon as it has committed a checkpoint, three times."""
    run, plane, seen = stage.volume("runs") / "cloud", stage.rehearsal.plane, set[str]()
    commit, preempted = plane.commit, list[str]()

    async def commit_and_preempt(committed: VolumeCopy) -> None:
        await commit(committed)
        new = {path.name for path in run.glob("train/**/checkpoint-*")} - seen
        seen.update(new)  # also what a container saves on its way out: the next one must get to a checkpoint of its own
        [container] = [c for c in plane.state.containers.values() if committed in c.checkouts]
        if new and len(preempted) < 3 and not container.draining:
            preempted.append(container.id)
            plane.schedule(0, plane.kill(container, "preempted", PREEMPTION_GRACE_S))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plane, "commit", commit_and_preempt)
        process = stage.start(MODAL, "run", "app.py::pipeline", "--recipe", str(MICRO), "--run", "cloud")
        out, _ = process.communicate(timeout=900)  # two idle cores take 60 s
    assert process.returncode == 0, out
    assert out.count("was preempted") >= 2, out  # the third may come after its last step
    assert "USD at most" in out and "H100" not in out and "cloud is finished up to evaluate" in out
    return run


def eventually(true: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
