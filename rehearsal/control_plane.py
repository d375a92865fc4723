"""The control plane: all its components behind the gRPC service that the client calls."""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpclib
from google.protobuf.empty_pb2 import Empty
from grpclib.server import Server, Stream
from modal_proto import api_grpc

from tuneline.rehearsal.access import Access
from tuneline.rehearsal.apps import IMAGE_BUILDERS, Apps
from tuneline.rehearsal.calls import Calls
from tuneline.rehearsal.containers import Containers
from tuneline.rehearsal.errors import unauthenticated
from tuneline.rehearsal.functions import Functions
from tuneline.rehearsal.inputs import Inputs
from tuneline.rehearsal.logs import Logs
from tuneline.rehearsal.persistence import load_state, save_state
from tuneline.rehearsal.queues import Queues
from tuneline.rehearsal.state import Container, Input, State
from tuneline.rehearsal.stores import Stores
from tuneline.rehearsal.volumes import Volumes
from tuneline.rehearsal.web import Web
from tuneline.rehearsal.worker import TOKEN_HEADER

STOP_TIMEOUT_S = 5.0
CONTAINER_HEADER = "x-rehearsal-container"
NO_TOKEN_MESSAGE = (
    "this rehearsal answers to its own token only: run `tuneline rehearse -- modal …`, or export what "
    "`tuneline rehearse` printed"
)


class ControlPlane(Containers, Calls, Inputs, Functions, Volumes, Stores, Queues, Apps, Logs, Web):
    """Responds to the client and runs containers; its state is in one folder."""

    def __init__(self, folder: Path) -> None:
        self.state, self.access = State(folder), Access()
        self.let_through, self.shares_network = [], False
        self.image_builder, self.reload_seconds = IMAGE_BUILDERS[0], 0.05
        self.address, self.server_url = "", ""
        self.preemptions, self.kills = {}, {}
        load_state(self.state)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; `server_url` is then the value of MODAL_SERVER_URL."""
        await self.serve_http(0)
        for function in self.state.functions.values():  # of apps that an earlier control plane deployed
            for method in list(function.urls):
                handle = function.handle.method_handle_metadata[method] if method else function.handle
                handle.web_url = await self.expose_endpoint(function, method)
        self._server = Server([_service(self)])
        await self._server.start("127.0.0.1", port)
        listening: Any = self._server._server
        self.server_url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """End every container, then stop listening."""
        alive = [container for container in self.state.containers.values() if container.alive]
        await asyncio.gather(*(self.kill(container, "plane stopped", grace=2) for container in alive))
        await self._wait_until_ended(alive)
        self._server.close()
        save_state(self.state)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _wait_until_ended(self, containers: list[Container]) -> None:
        """Wait for the processes: one that outlives the loop is closed, with a warning, by the garbage collector."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while any(container.alive for container in containers):
                    await asyncio.sleep(0.02)

    def schedule(self, seconds: float, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background after `seconds`."""

        async def wait() -> None:
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                coroutine.close()
                raise
            await coroutine

        task = asyncio.get_running_loop().create_task(wait())
        self._tasks.add(task)
        task.add_done_callback(self._forget_task)

    def watch(self, call_input: Input, container: Container) -> None:
        super().watch(call_input, container)
        self.inject_failures(call_input, container)

    def _forget_task(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            sys.excepthook(type(error), error, error.__traceback__)


def _service(plane: ControlPlane) -> Any:
    """Return the generated gRPC service, whose methods call the control plane's methods of the same name."""
    methods = {name: _handler(plane, name) for name in api_grpc.ModalClientBase.__abstractmethods__}
    return type("Service", (api_grpc.ModalClientBase,), methods)()


def _handler(plane: ControlPlane, name: str) -> Callable[[Any, "Stream[Any, Any]"], Coroutine[Any, Any, None]]:
    async def handle(_: Any, stream: "Stream[Any, Any]") -> None:
        metadata = dict(stream.metadata or {})
        if not plane.access.is_token(str(metadata.get(TOKEN_HEADER, ""))):
            raise unauthenticated(NO_TOKEN_MESSAGE)
        request = await stream.recv_message()
        container_id = metadata.get(CONTAINER_HEADER)
        if container := plane.state.containers.get(str(container_id)):
            container.connected = True
        method = getattr(plane, name, None)
        if method is None:
            if name.endswith(("Heartbeat", "Stats")):
                await stream.send_message(Empty())
                return
            raise grpclib.GRPCError(grpclib.Status.UNIMPLEMENTED, f"the rehearsal does not know {name}")
        result = method(request, container_id)
        if hasattr(result, "__aiter__"):
            async for message in result:
                await stream.send_message(message)
        else:
            await stream.send_message(await result)

    return handle
