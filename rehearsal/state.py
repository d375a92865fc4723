"""State of the control plane: apps, functions, calls, containers, volumes. Plain data in memory."""

import asyncio
import contextlib
import itertools
import re
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modal_proto import api_pb2 as pb

from tuneline.rehearsal.errors import invalid

SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""modal._utils.name_utils: what an object may be called; no path of several parts, and neither `.` nor `..`."""


@dataclass(eq=False)
class App:
    """An app: deployed, or running for one `modal run`."""

    id: str
    name: str
    state: Any
    functions: dict[str, str] = field(default_factory=dict)
    """Tag → function id."""
    classes: dict[str, str] = field(default_factory=dict)
    logs: list[pb.TaskLogsBatch] = field(default_factory=list)
    done: bool = False
    created: float = field(default_factory=time.time)
    stopped: float = 0.0
    versions: list[float] = field(default_factory=list)
    """Time of each deployment, in Unix seconds."""


@dataclass(eq=False)
class Function:
    """A function as declared, or as bound by `with_options` or a class's parameters."""

    id: str
    app: App
    name: str
    handle: pb.FunctionHandleMetadata
    declared: pb.Function | None = None
    data: pb.FunctionData | None = None
    parameters: bytes = b""
    urls: dict[str, str] = field(default_factory=dict)
    """Method name ("" for a function) → address of its web endpoint."""
    crashes: int = 0
    """Containers that died before they took an input."""
    waiting: "deque[Input]" = field(default_factory=deque)
    input_added: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def spec(self) -> pb.Function:
        assert self.declared is not None
        return self.declared


@dataclass(eq=False)
class Call:
    """One call of a function, with one or many inputs."""

    id: str
    function: Function
    kind: int
    inputs: int = 0
    outputs: list[pb.FunctionGetOutputsItem] = field(default_factory=list)
    data_in: list[pb.DataChunk] = field(default_factory=list)
    data_out: list[pb.DataChunk] = field(default_factory=list)


@dataclass(eq=False)
class Input:
    """One input of a call, and how often it was tried."""

    id: str
    call: Call
    index: int
    message: pb.FunctionInput
    retry: int = 0
    lost: int = 0
    container: str | None = None
    done: bool = False


@dataclass(eq=False)
class Volume:
    """A volume; its committed state is a folder."""

    id: str
    name: str
    path: Path
    metadata: pb.VolumeMetadata
    max_bytes: int | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(eq=False)
class Checkout:
    """A container's own copy of a volume."""

    volume: Volume
    copy: Path
    read_only: bool
    synced: dict[str, tuple[int, int]] | None = None
    """File → modification time (ns) and size at the last commit or reload."""


@dataclass(eq=False)
class Container:
    """A container: one process of Modal's container entrypoint."""

    id: str
    function: Function
    folder: Path
    process: asyncio.subprocess.Process | None = None
    checkouts: list[Checkout] = field(default_factory=list)
    relays: list[asyncio.Server] = field(default_factory=list)
    """Connections out of its network."""
    running: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    """Ids of cancelled inputs that it has not been told of yet."""
    began: float = field(default_factory=time.time)
    polling: int = 0
    alive: bool = True
    connected: bool = False
    draining: bool = False
    had_input: bool = False
    failed: bool = False
    ended_by: str = ""
    """Why the control plane ended it; empty if it ended by itself."""


class State:
    """The whole state, and a source of ids."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("files", "volumes", "containers", "blobs", "secrets"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.apps: dict[str, App] = {}
        self.functions: dict[str, Function] = {}
        self.calls: dict[str, Call] = {}
        self.inputs: dict[str, Input] = {}
        self.containers: dict[str, Container] = {}
        self.volumes: dict[str, Volume] = {}
        self.images: dict[str, pb.Image] = {}
        self.mounts: dict[str, list[pb.MountFile]] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.secret_names: defaultdict[str, str] = defaultdict(str)
        self.dicts: dict[str, dict[bytes, bytes]] = {}
        self.queues: dict[str, defaultdict[bytes, list[tuple[str, bytes]]]] = {}
        """Id → partition → entries, oldest first: their ids and values."""
        self.ids: dict[tuple[Any, ...], str] = {}
        """(kind, name, …) → id."""
        self._changed = asyncio.Event()
        """Set, and replaced, whenever an output, a log line or a data chunk arrives."""
        self.counts: defaultdict[str, itertools.count[int]] = defaultdict(lambda: itertools.count(1))

    def file(self, kind: str, name: str) -> Path:
        """Return a file or folder of `kind`, one of the subfolders.

        Raises:
            GRPCError: INVALID_ARGUMENT, the name could lead elsewhere.
        """
        if not SAFE_NAME.fullmatch(name):
            raise invalid(f"{name!r}: not a name for one of the {kind}")
        return self.folder / kind / name

    def new_id(self, prefix: str) -> str:
        """Return an id of the same form as Modal's: a prefix and 22 characters."""
        return f"{prefix}-{next(self.counts[prefix]):022d}"

    def notify(self) -> None:
        """Wake every `wait_for`."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for(self, condition: Any, seconds: float) -> Any:
        """Return the value of `condition()` once it is true, or after `seconds`.

        Without a lock: a Condition whose waiter is cancelled twice (a client that went away) stays locked for all.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():
                    await self._changed.wait()
        return condition()
