"""`tuneline rehearse`: a control plane for as long as a command runs, or until Ctrl-C."""

import asyncio
import os
import signal
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rehearsal.containers import NO_NAMESPACES, namespaces_allowed
from rehearsal.plane import Plane
from stages.errors import StageFailed

STARTS_WITHIN_S = 20


class Rehearsal:
    """A plane in a thread of its own, for a `with` block; state in `folder`, which may be used again.

    Raises:
        StageFailed: this machine allows no user namespaces.
    """

    def __init__(self, folder: Path) -> None:
        if not namespaces_allowed():
            raise StageFailed(NO_NAMESPACES)
        folder.mkdir(parents=True, exist_ok=True)
        self.plane = Plane(folder.absolute())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.plane.start(), self._loop).result(STARTS_WITHIN_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self.plane.stop(), self._loop).result(STARTS_WITHIN_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STARTS_WITHIN_S)

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


def run(words: list[str], folder: Path) -> int:
    """Run a command with its Modal played here; its exit code."""
    import subprocess

    with Rehearsal(folder) as rehearsal:
        process = subprocess.Popen(words, env=os.environ | rehearsal.environment)
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)  # the client asks whether to detach or to stop


def stay(folder: Path, say: Any) -> None:
    """Keep a plane up, and say how to talk to it, until Ctrl-C."""
    with Rehearsal(folder) as rehearsal:
        for name, value in rehearsal.environment.items():
            say(f"export {name}={value}")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            say("the rehearsal is over")
