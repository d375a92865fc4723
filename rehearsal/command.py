"""`tuneline rehearse`: a control plane for as long as a command runs, or until Ctrl-C."""

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from modal_proto import api_pb2 as pb

from tuneline.core.errors import BadRequest, Locked, NotFound, StageFailed
from tuneline.rehearsal.plane import Plane
from tuneline.rehearsal.worker import NO_NAMESPACES, namespaces_allowed

STARTS_WITHIN_S = 20
TRIGGER = "trigger"
ADDRESS = "address.json"
"""In the state folder, while a plane is up: how to talk to it."""


class Rehearsal:
    """A plane in a thread of its own, for a `with` block; state in `folder`, which may be used again.

    Containers reach the ports `let_through` of this machine; with `shares_network` all of its network.

    Raises:
        StageFailed: this machine allows no user namespaces.
        Locked: another plane has this folder.
    """

    def __init__(self, folder: Path, *, let_through: Sequence[int] = (), shares_network: bool = False) -> None:
        if not namespaces_allowed():
            raise StageFailed(NO_NAMESPACES)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Locked(f"{folder}: another rehearsal is up with this state; --state FOLDER takes another") from None
        self.plane = Plane(folder.absolute())
        self.plane.let_through, self.plane.shares_network = list(let_through), shares_network
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self.plane.start())
        told = {"address": self.address, "environment": self.environment}
        (self.plane.state.folder / ADDRESS).write_text(json.dumps(told))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        (self.plane.state.folder / ADDRESS).unlink(missing_ok=True)
        self._do(self.plane.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STARTS_WITHIN_S)
        self._lock.close()

    @property
    def address(self) -> str:
        """Of the plane's own HTTP API."""
        return self.plane.address

    @property
    def environment(self) -> dict[str, str]:
        """What makes a modal client talk to this plane."""
        return {
            "MODAL_SERVER_URL": self.plane.server_url,
            "MODAL_TOKEN_ID": "ak-rehearsal",
            "MODAL_TOKEN_SECRET": "as-rehearsal",
            "MODAL_ENVIRONMENT": "main",
        }

    def deployed(self, app: str) -> dict[str, Any]:
        """What a deployed app declared: `functions`, by name, each a plain dict.

        Raises:
            KeyError: no such app.
        """
        state = self.plane.state
        return {"functions": self.plane.declared(state.apps[state.named["app", app]])}

    def detached(self) -> bool:
        """Whether a call of `modal run --detach` goes on without its client (modal.com/docs/guide/apps)."""
        detached = (pb.APP_STATE_DETACHED, pb.APP_STATE_DETACHED_DISCONNECTED)
        return any(not one.done and one.call.function.app.state in detached for one in self._inputs())

    def told(self) -> str:
        """One line: what ran, and on what it was declared to run."""
        started = Counter(_hardware(c.function.spec) for c in list(self.plane.state.containers.values()))
        what = ", ".join(f"{name} ({count})" for name, count in sorted(started.items())) or "no container"
        return f"rehearsed on this machine: {what}; images were not built; state in {self.plane.state.folder}"

    def _inputs(self) -> list[Any]:
        return list(self.plane.state.inputs.values())

    def _do(self, what: Any) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(STARTS_WITHIN_S)


def run(words: list[str], folder: Path) -> int:
    """Run a command with its Modal played here; its exit code. `trigger APP FUNCTION` does what its schedule would.

    If a plane is up with this folder (`tuneline rehearse`), that one plays.
    """
    if (known := folder / ADDRESS).exists() and _is_up(folder):
        up = json.loads(known.read_text())
        return _trigger(up["address"], words) if words[0] == TRIGGER else _call(words, up["environment"])
    with Rehearsal(folder) as rehearsal:
        if words[0] == TRIGGER:
            return _trigger(rehearsal.address, words)
        code = _call(words, rehearsal.environment)
        if rehearsal.detached():
            _say("the client is gone, a detached call goes on; Ctrl-C ends it")
            _wait_while(rehearsal.detached)
        _say(rehearsal.told())
        return code


def stay(folder: Path, say: Any) -> None:
    """Keep a plane up, and say how to talk to it, until Ctrl-C."""
    with Rehearsal(folder) as rehearsal:
        for name, value in rehearsal.environment.items():
            say(f"export {name}={value}")
        for app in [app for app in rehearsal.plane.state.apps.values() if app.state == pb.APP_STATE_DEPLOYED]:
            for name, function in rehearsal.plane.declared(app).items():
                for url in function["urls"].values():
                    say(f"# {app.name} {name} {url}")
        say(f"# `tuneline rehearse -- modal …` with --state {folder} talks to it by itself")
        _wait_while(lambda: True)


def _call(words: list[str], environment: dict[str, str]) -> int:
    try:
        process = subprocess.Popen(words, env=os.environ | environment)
    except FileNotFoundError:
        raise NotFound(f"{words[0]}: no such command; say `tuneline rehearse -- modal run …`") from None
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)  # the client asks whether to detach or to stop


def _trigger(address: str, words: list[str]) -> int:
    """1 if the call failed.

    Raises:
        BadRequest: not an app and a function.
        NotFound: no such app or function is deployed.
    """
    if len(words) != 3:
        raise BadRequest("say `tuneline rehearse -- trigger APP FUNCTION`")
    try:
        with urllib.request.urlopen(f"{address}/rehearsal/trigger/{words[1]}/{words[2]}", b"") as answer:
            ended = json.load(answer)
    except urllib.error.HTTPError as error:
        raise NotFound(error.read().decode()) from None
    sys.stdout.write(ended["log"])
    if ended["status"] != pb.GenericResult.GENERIC_STATUS_SUCCESS:
        _say(f"{words[2]} failed: {ended['exception']}")
        return 1
    return 0


def _is_up(folder: Path) -> bool:
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def _wait_while(true: Any) -> None:
    over = threading.Event()
    try:
        while true():
            over.wait(0.5)
    except KeyboardInterrupt:
        _say("the rehearsal is over")


def _hardware(spec: pb.Function) -> str:
    gpu = spec.resources.gpu_config
    return f"{spec.function_name} on {f'{gpu.gpu_type}:{gpu.count}' if gpu.gpu_type else 'CPU'}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201  # beside what the command prints
