"""The interface between the components of the control plane; `ControlPlane` inherits from all of them."""

from abc import ABC, abstractmethod
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from modal_proto import api_pb2 as pb

from tuneline.rehearsal.access import Access
from tuneline.rehearsal.state import App, Call, Checkout, Container, Function, Input, State


class Component(ABC):
    """Shared state, and methods that one component implements and others call.

    They are abstract so that a control plane that lacks one cannot be instantiated.
    """

    state: State
    access: Access
    address: str
    """Address of the HTTP API."""
    server_url: str
    """Address of the gRPC service, the value of MODAL_SERVER_URL."""
    let_through: list[int]
    """Ports of this machine that containers can reach at the same port of their own loopback."""
    image_builder: str
    """Version of the base images that clients are told to use."""
    reload_seconds: float
    """How long a reload of a Volume takes at least."""
    shares_network: bool
    """Whether containers share this machine's network, its ports and its internet access."""
    preemptions: dict[str, list[float]]
    """Function name → seconds into its next inputs at which their containers are preempted."""
    kills: dict[str, list[float]]
    """The same for SIGKILL: a machine that is lost, or out of memory."""

    @abstractmethod
    def schedule(self, seconds: float, coroutine: Coroutine[Any, Any, None]) -> None: ...

    # apps
    @abstractmethod
    def find_function(self, app_name: str, tag: str) -> Function: ...

    @abstractmethod
    def app_layout(self, app: App) -> pb.AppLayout: ...

    @abstractmethod
    async def log(self, container: Container, text: str, channel: Any) -> None: ...

    # stores, volumes
    @abstractmethod
    def layers(self, image_id: str) -> list[str]: ...

    @abstractmethod
    def volume_path(self, volume_id: str, path: str) -> Path: ...

    @abstractmethod
    async def commit(self, checkout: Checkout) -> None: ...

    @abstractmethod
    async def check_out(self, checkout: Checkout) -> None: ...

    # functions, calls
    @abstractmethod
    def describe_functions(self, app: App) -> dict[str, Any]: ...

    @abstractmethod
    def new_call(self, function: Function, kind: int) -> Call: ...

    @abstractmethod
    async def put_input(self, call: Call, item: Any) -> pb.FunctionPutInputsResponseItem: ...

    @abstractmethod
    async def handle_lost_container(self, call_input: Input, reason: str) -> None: ...

    @abstractmethod
    async def restart_input(self, call_input: Input) -> None: ...

    @abstractmethod
    async def enqueue(self, call_input: Input) -> None: ...

    @abstractmethod
    async def handle_result(
        self, call_input: Input, result: pb.GenericResult, data_format: Any = pb.DATA_FORMAT_PICKLE
    ) -> None: ...

    @abstractmethod
    async def finish_input(
        self, call_input: Input, result: pb.GenericResult, data_format: Any = pb.DATA_FORMAT_PICKLE
    ) -> None: ...

    # containers, web
    @abstractmethod
    def scale_up(self, function: Function) -> None: ...

    @abstractmethod
    async def kill(self, container: Container, reason: str, grace: float = 5) -> None: ...

    @abstractmethod
    def signed_url(self, path: str, **query: int) -> str: ...

    @abstractmethod
    async def expose_endpoint(self, function: Function, method: str) -> str: ...
