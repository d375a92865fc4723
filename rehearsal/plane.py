"""The control plane: all its parts behind the gRPC service that the client calls."""

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

from tuneline.rehearsal.apps import Apps
from tuneline.rehearsal.calls import Calls
from tuneline.rehearsal.containers import Containers
from tuneline.rehearsal.functions import Functions
from tuneline.rehearsal.logs import Logs
from tuneline.rehearsal.objects import Container, Input, State
from tuneline.rehearsal.queues import Queues
from tuneline.rehearsal.saved import load, save
from tuneline.rehearsal.stores import Stores
from tuneline.rehearsal.volumes import Volumes
from tuneline.rehearsal.web import Web

ENDS_WITHIN_S = 5.0
FROM_CONTAINER = "x-rehearsal-container"


class Plane(Containers, Calls, Functions, Volumes, Stores, Queues, Apps, Logs, Web):
    """Answers the client and runs containers; all state in one folder."""

    def __init__(self, folder: Path) -> None:
        self.state = State(folder)
        self.let_through, self.shares_network = [], False
        self.address, self.server_url = "", ""
        self.preemptions, self.kills = {}, {}
        load(self.state)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; `server_url` is then what MODAL_SERVER_URL takes."""
        await self.serve_http(0)
        for function in self.state.functions.values():  # of apps an earlier plane deployed
            for method in list(function.urls):
                handle = function.handle.method_handle_metadata[method] if method else function.handle
                handle.web_url = await self.expose(function, method)
        self._server = Server([_service(self)])
        await self._server.start("127.0.0.1", port)
        listening: Any = self._server._server
        self.server_url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """End every container, then stop listening."""
        alive = [container for container in self.state.containers.values() if container.alive]
        await asyncio.gather(*(self.kill(container, "plane stopped", grace=2) for container in alive))
        await self._all_ended(alive)
        self._server.close()
        save(self.state)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _all_ended(self, containers: list[Container]) -> None:
        """A process that outlives the loop is closed by the garbage collector, which then complains anywhere."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ENDS_WITHIN_S):
                while any(container.alive for container in containers):
                    await asyncio.sleep(0.02)

    def later(self, seconds: float, what: Coroutine[Any, Any, None]) -> None:
        """Do it in the background, after so many seconds."""

        async def wait() -> None:
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                what.close()
                raise
            await what

        task = asyncio.get_running_loop().create_task(wait())
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def watch(self, one: Input, here: Container) -> None:
        super().watch(one, here)
        self.disturb(one, here)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            sys.excepthook(type(error), error, error.__traceback__)


def _service(plane: Plane) -> Any:
    """The generated gRPC service, each of its methods answered by the plane's method of that name."""
    methods = {name: _answered(plane, name) for name in api_grpc.ModalClientBase.__abstractmethods__}
    return type("Service", (api_grpc.ModalClientBase,), methods)()


def _answered(plane: Plane, name: str) -> Callable[[Any, "Stream[Any, Any]"], Coroutine[Any, Any, None]]:
    async def answer(_: Any, stream: "Stream[Any, Any]") -> None:
        request = await stream.recv_message()
        container = dict(stream.metadata or {}).get(FROM_CONTAINER)
        if known := plane.state.containers.get(str(container)):
            known.connected = True
        method = getattr(plane, name, None)
        if method is None:
            if name.endswith(("Heartbeat", "Stats")):
                await stream.send_message(Empty())
                return
            raise grpclib.GRPCError(grpclib.Status.UNIMPLEMENTED, f"the rehearsal does not know {name}")
        result = method(request, container)
        if hasattr(result, "__aiter__"):
            async for message in result:
                await stream.send_message(message)
        else:
            await stream.send_message(await result)

    return answer
