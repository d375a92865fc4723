"""What the parts of the control plane ask of each other; `Plane` is all of them."""

from abc import ABC, abstractmethod
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from modal_proto import api_pb2 as pb

from tuneline.rehearsal.objects import App, Call, Checkout, Container, Function, Input, State


class Part(ABC):
    """Shared state, and methods that some part has and others call; a plane that lacks one cannot be made."""

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

    @abstractmethod
    def later(self, seconds: float, what: Coroutine[Any, Any, None]) -> None: ...

    # apps
    @abstractmethod
    def find(self, app_name: str, tag: str) -> Function: ...

    @abstractmethod
    def layout(self, app: App) -> pb.AppLayout: ...

    @abstractmethod
    async def log(self, container: Container, text: str, channel: Any) -> None: ...

    # stores, volumes
    @abstractmethod
    def layers(self, image_id: str) -> list[str]: ...

    @abstractmethod
    def path_in(self, volume_id: str, path: str) -> Path: ...

    @abstractmethod
    async def commit(self, view: Checkout) -> None: ...

    @abstractmethod
    async def check_out(self, view: Checkout) -> None: ...

    # functions, calls
    @abstractmethod
    def declared(self, app: App) -> dict[str, Any]: ...

    @abstractmethod
    def new_call(self, function: Function, kind: int) -> Call: ...

    @abstractmethod
    async def put_input(self, call: Call, item: Any) -> pb.FunctionPutInputsResponseItem: ...

    @abstractmethod
    async def lost(self, one: Input, why: str) -> None: ...

    @abstractmethod
    async def start_again(self, one: Input) -> None: ...

    @abstractmethod
    async def enqueue(self, one: Input) -> None: ...

    @abstractmethod
    async def output(self, one: Input, result: pb.GenericResult, form: Any = pb.DATA_FORMAT_PICKLE) -> None: ...

    @abstractmethod
    async def finish(self, one: Input, result: pb.GenericResult, form: Any = pb.DATA_FORMAT_PICKLE) -> None: ...

    # containers, web
    @abstractmethod
    def scale(self, function: Function) -> None: ...

    @abstractmethod
    async def kill(self, container: Container, why: str, grace: float = 5) -> None: ...

    @abstractmethod
    async def expose(self, function: Function, method: str) -> str: ...
