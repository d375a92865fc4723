"""A rehearsal: a control plane that runs for the length of a `with` block."""

import asyncio
import fcntl
import json
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from modal_proto import api_pb2 as pb

from tuneline.core.errors import Locked, StageFailed
from tuneline.core.files import write_atomic
from tuneline.rehearsal.access import claim_folder
from tuneline.rehearsal.control_plane import ControlPlane
from tuneline.rehearsal.worker import NO_NAMESPACES_MESSAGE, can_make_namespaces

START_TIMEOUT_S = 20
ADDRESS = "address.json"
"""In the state folder while a control plane runs: how to reach it, and its token."""
TOKEN = "MODAL_TOKEN_SECRET"


class Rehearsal:
    """A control plane in a thread of its own, for the length of a `with` block.

    Its state is in `folder`, which may be used again. Containers can reach the ports `let_through` of this machine;
    with `shares_network` they share its whole network.

    Raises:
        StageFailed: this machine allows no user namespaces.
        Locked: another control plane uses this folder.
        BadRequest: others could have put something in this folder.
    """

    def __init__(self, folder: Path, *, let_through: Sequence[int] = (), shares_network: bool = False) -> None:
        if not can_make_namespaces():
            raise StageFailed(NO_NAMESPACES_MESSAGE)
        claim_folder(folder)
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Locked(
                f"{folder}: another rehearsal is running with this state; use another folder with --state FOLDER"
            ) from None
        self.plane = ControlPlane(folder.absolute())
        self.plane.let_through, self.plane.shares_network = list(let_through), shares_network
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self.plane.start())
        record = {"address": self.address, "environment": self.environment}
        write_atomic(self.plane.state.folder / ADDRESS, json.dumps(record), private=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        (self.plane.state.folder / ADDRESS).unlink(missing_ok=True)
        self._run(self.plane.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_TIMEOUT_S)
        self._lock.close()

    @property
    def address(self) -> str:
        """Return the address of the control plane's own HTTP API."""
        return self.plane.address

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables that make a modal client use this control plane."""
        return {
            "MODAL_SERVER_URL": self.plane.server_url,
            "MODAL_TOKEN_ID": "ak-rehearsal",
            TOKEN: self.plane.access.token,
            "MODAL_ENVIRONMENT": "main",
        }

    def deployed(self, app: str) -> dict[str, Any]:
        """Return what a deployed app declared: `functions`, by name, each a plain dict.

        Raises:
            KeyError: no such app is deployed.
        """
        state = self.plane.state
        return {"functions": self.plane.describe_functions(state.apps[state.ids["app", app]])}

    def has_detached_calls(self) -> bool:
        """Whether a call of `modal run --detach` still runs without its client (modal.com/docs/guide/apps)."""
        states = (pb.APP_STATE_DETACHED, pb.APP_STATE_DETACHED_DISCONNECTED)
        return any(not i.done and i.call.function.app.state in states for i in self._inputs())

    def summary(self) -> str:
        """Return one line: which containers ran, and on what hardware they were declared to run."""
        counts = Counter(_describe_hardware(c.function.spec) for c in list(self.plane.state.containers.values()))
        containers = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items())) or "no container"
        return f"rehearsed on this machine: {containers}; images were not built; state in {self.plane.state.folder}"

    def _inputs(self) -> list[Any]:
        return list(self.plane.state.inputs.values())

    def _run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(START_TIMEOUT_S)


def _describe_hardware(spec: pb.Function) -> str:
    gpu = spec.resources.gpu_config
    return f"{spec.function_name} on {f'{gpu.gpu_type}:{gpu.count}' if gpu.gpu_type else 'CPU'}"
