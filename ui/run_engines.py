"""The engines of finished runs on this machine: started on the first request, the longest unused stopped."""

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tuneline.configs.recipe import recipe_of
from tuneline.core import paths
from tuneline.core.artifacts import is_finished, verify_files
from tuneline.core.errors import NotFound
from tuneline.core.machine import usable_cores
from tuneline.endpoints.engine_address import EngineAddress
from tuneline.endpoints.tool_selection import load_tool_selector
from tuneline.engines.control_tokens import read_gguf_tokens
from tuneline.engines.llama_cpp.llama_server import start_llama_server
from tuneline.engines.server import Server
from tuneline.stages.run_artifacts import open_stage

log = logging.getLogger(__name__)

MOST = 2
"""Engines at a time: as many as Compare asks."""
SLOTS = 2
"""Requests that one answers at a time."""


@dataclass
class _Engine:
    server: Server
    address: EngineAddress
    stack: ExitStack
    in_flight: int = 0
    used_at: float = field(default_factory=time.monotonic)


class RunEngines:
    """What `EnginePool` is for promoted names, for runs. `start` may be called from any thread."""

    ready = True

    def __init__(self) -> None:
        self._running: dict[str, _Engine] = {}
        self._lock = threading.Lock()
        """Of the engines and the requests that they have."""
        self._starting = threading.Lock()
        self._logs = Path(tempfile.mkdtemp(prefix="tuneline-ui-engines-"))

    def states(self) -> dict[str, str]:
        """Return the name of each run with a converted model → `ready`, or `asleep` until `start`."""
        return {run.name: "ready" if self._find(run.name) else "asleep" for run in _list_converted()}

    def resolve(self, name: str) -> EngineAddress:
        """Return where requests for a run go; nowhere until it is started.

        Raises:
            NotFound: there is no such run, or it is not converted.
        """
        if engine := self._find(name):
            return engine.address
        if name not in {run.name for run in _list_converted()}:
            raise NotFound(f"{name}: no run with a converted model; `tuneline runs ls` lists the runs")
        return EngineAddress(None, {"model": name})

    @contextlib.contextmanager
    def use(self, name: str) -> Iterator[EngineAddress]:
        """Hold a run's engine for a request: it is not stopped before the block ends."""
        with self._lock:
            engine = self._find(name)
            if engine:
                engine.in_flight += 1
        if engine is None:
            yield self.resolve(name)
            return
        try:
            yield engine.address
        finally:
            with self._lock:
                engine.in_flight -= 1
                engine.used_at = time.monotonic()

    def start(self, name: str) -> None:
        """Start a run's engine unless it runs, which takes seconds.

        Raises:
            NotFound: no such run, or llama.cpp is not built. StageFailed: it does not start, or the run is damaged.
        """
        with self._starting:
            if self._find(name):
                return
            self._make_room()
            engine = self._open(name)
            with self._lock:
                if dead := self._running.pop(name, None):
                    dead.stack.close()
                self._running[name] = engine

    def stop(self) -> None:
        """Stop all engines."""
        while self._running:
            self._running.popitem()[1].stack.close()

    def _find(self, name: str) -> _Engine | None:
        engine = self._running.get(name)
        return engine if engine and engine.server.process.poll() is None else None

    def _make_room(self) -> None:
        with self._lock:
            idle = [name for name, engine in self._running.items() if not engine.in_flight]
            idle.sort(key=lambda name: self._running[name].used_at)
            stopped = [self._running.pop(name) for name in idle[: max(0, len(self._running) - MOST + 1)]]
        for engine in stopped:
            engine.stack.close()

    def _open(self, name: str) -> _Engine:
        folder = paths.run_folder(name)
        if not (folder / "recipe.json").exists():
            raise NotFound(f"{name}: no such run in {paths.runs()}; `tuneline runs ls` lists the runs")
        recipe, converted = recipe_of(folder), open_stage(folder, "convert")
        file = f"tuned-{recipe.serve.type}.gguf"
        verify_files(converted, file)
        # Read before there is a server, which would stay if that failed.
        tokens, selector = read_gguf_tokens(folder / "convert" / file), load_tool_selector(folder)
        stack = ExitStack()
        server = stack.enter_context(
            start_llama_server(
                folder / "convert" / file,
                alias=name,
                log=self._logs / f"{name}.log",
                context=recipe.serve.context,
                threads=recipe.compute.threads or usable_cores(),
                slots=SLOTS,
            )
        )
        return _Engine(server, EngineAddress(server.base_url, {"model": name}, selector, control_tokens=tokens), stack)


def _list_converted() -> list[Path]:
    """Return the folders of the runs that have a model to talk to; whether it is whole is seen when it is started."""
    folders = sorted(folder for folder in paths.runs().glob("*") if (folder / "recipe.json").exists())
    return [folder for folder in folders if is_finished(folder / "convert")]
