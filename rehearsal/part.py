"""What the parts of the control plane ask of each other; `Plane` is all of them."""

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from modal_proto import api_pb2 as pb

from rehearsal.objects import App, Call, Checkout, Container, Function, Input, State


class Part:
    """Shared state, and methods that some part has and others call."""

    state: State
    address: str
    """Of the plane's HTTP API."""
    server_url: str
    """Of its gRPC service, as MODAL_SERVER_URL takes it."""
    let_through: list[int]
    """Ports of this machine that containers reach at the same port of their own loopback."""
    shares_network: bool
    """Whether containers share this machine's network, its ports and its way to the internet."""
    preemptions: dict[str, list[float]]
    """Function → seconds into its next inputs at which they are preempted."""
    kills: dict[str, list[float]]
    """The same, for SIGKILL: a machine that is lost, or out of memory."""

    def later(self, seconds: float, what: Coroutine[Any, Any, None]) -> None:
        raise NotImplementedError

    # apps
    def find(self, app_name: str, tag: str) -> Function:
        raise NotImplementedError

    def layout(self, app: App) -> pb.AppLayout:
        raise NotImplementedError

    async def log(self, container: Container, text: str, channel: Any) -> None:
        raise NotImplementedError

    # stores, volumes
    def layers(self, image_id: str) -> list[str]:
        raise NotImplementedError

    def path_in(self, volume_id: str, path: str) -> Path:
        raise NotImplementedError

    async def commit(self, view: Checkout) -> None:
        raise NotImplementedError

    async def check_out(self, view: Checkout) -> None:
        raise NotImplementedError

    # functions, calls
    def declared(self, app: App) -> dict[str, Any]:
        raise NotImplementedError

    def new_call(self, function: Function, kind: int) -> Call:
        raise NotImplementedError

    async def put_input(self, call: Call, item: Any) -> pb.FunctionPutInputsResponseItem:
        raise NotImplementedError

    async def lost(self, one: Input, why: str) -> None:
        raise NotImplementedError

    async def start_again(self, one: Input) -> None:
        raise NotImplementedError

    async def enqueue(self, one: Input) -> None:
        raise NotImplementedError

    async def output(self, one: Input, result: pb.GenericResult, form: Any = pb.DATA_FORMAT_PICKLE) -> None:
        raise NotImplementedError

    async def finish(self, one: Input, result: pb.GenericResult, form: Any = pb.DATA_FORMAT_PICKLE) -> None:
        raise NotImplementedError

    # containers, web
    def scale(self, function: Function) -> None:
        raise NotImplementedError

    async def kill(self, container: Container, why: str, grace: float = 5) -> None:
        raise NotImplementedError

    async def expose(self, function: Function, method: str) -> str:
        raise NotImplementedError
