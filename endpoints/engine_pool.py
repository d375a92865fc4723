"""The engines behind the gateway: one for each promoted version.

A new version is started beside the one before it, which then takes no further request and is stopped when it has
answered those it has. An engine that ends or hangs is started again.
"""

import contextlib
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.core import paths
from tuneline.core.errors import NotFound, StageFailed, TunelineError
from tuneline.endpoints.engine_address import EngineAddress
from tuneline.endpoints.engine_liveness import Liveness
from tuneline.endpoints.engine_starter import EngineStarter, read_control_tokens, read_request_fields
from tuneline.endpoints.forbidden_calls import llama_cpp_fields, vllm_fields
from tuneline.endpoints.promotion import Promotion, PromotionReader, Version, engine_name
from tuneline.endpoints.start_retries import StartRetries
from tuneline.endpoints.tool_selection import ToolSelector, load_tool_selector
from tuneline.engines.control_tokens import ControlTokens
from tuneline.engines.server import Server

log = logging.getLogger(__name__)

DRAIN_S = 900.0
"""Longest time that a replaced engine may take for the requests it has; longer than `limits.request_s` as shipped."""


@dataclass
class _Engine:
    version: Version
    server: Server
    stack: ExitStack
    model: str
    """Its name in the engine."""
    tool_selector: ToolSelector | None
    """None if its run was prepared without a preselector."""
    fields: dict[str, Any]
    """Sent with each request: adapters of one base may have learned with different templates."""
    control_tokens: ControlTokens
    liveness: Liveness
    in_flight: int = 0
    """Requests that it has now."""
    used_at: float = 0.0
    """When it had its last one, or was replaced; by `time.monotonic`."""
    retired_at: float = 0.0

    @property
    def address(self) -> EngineAddress:
        fields = {"model": self.model} | self.fields
        return EngineAddress(
            self.server.base_url,
            fields,
            self.tool_selector,
            control_tokens=self.control_tokens,
            known_choices=() if self.version.form == "gguf" else ("function",),
            without_calls=llama_cpp_fields() if self.version.form == "gguf" else vllm_fields(),
        )

    @property
    def alive(self) -> bool:
        """Whether its process is there and answers, as far as anybody has asked."""
        return self.server.process.poll() is None and not self.liveness.hung

    def close(self) -> None:
        self.liveness.stop()
        self.stack.close()


class EnginePool:
    """Keeps an engine running for everything promoted in one of `forms`.

    `update` is called from one thread; the others' calls may come from any.
    """

    def __init__(
        self,
        forms: tuple[str, ...],
        slots: int = 4,
        gpus: int = 1,
        threads: int | None = None,
        *,
        maps_files: bool = True,
        linger_s: float = 0.0,
        watch: Callable[[str, str], Liveness] = Liveness,
    ) -> None:
        """`threads` of each llama-server; None: as many as there are cores. `maps_files`: as `start_llama_server`.

        `linger_s`: how long a replaced engine stays after its last request, for callers who name versions. `watch`
        makes what asks an engine whether it answers, of its address and model.
        """
        self.forms, self._linger_s, self._watch = forms, linger_s, watch
        self._logs = Path(tempfile.mkdtemp(prefix="tuneline-engines-"))
        self._starter = EngineStarter(slots, gpus, threads, self._logs, maps_files=maps_files)
        self._reader = PromotionReader()
        self._retries = StartRetries()
        self._promotions: dict[str, Promotion] | None = None
        """By name; None until the policy was read."""
        self._running: dict[str, _Engine] = {}
        """By promoted name."""
        self._draining: list[_Engine] = []
        """Replaced ones, which finish what they have."""
        self._lock = threading.Lock()
        """Of these two and the requests that engines have: none is sent to an engine that is about to be stopped."""

    @property
    def threads(self) -> int:
        """Threads of each llama-server."""
        return self._starter.threads

    @property
    def ready(self) -> bool:
        """Whether every promoted name's current version is running; False until the policy was read."""
        return self._promotions is not None and all(state == "ready" for state in self.states().values())

    def states(self) -> dict[str, str]:
        """Return promoted name → `ready` or `starting`."""
        return {name: "ready" if self._is_current(name) else "starting" for name in self._promotions or ()}

    def versions(self) -> list[str]:
        """Return the engines' names of the models that answer, as `use_version` takes them."""
        with self._lock:
            return [engine.model for engine in (*self._running.values(), *self._draining)]

    def resolve(self, name: str) -> EngineAddress:
        """Return where requests for a promoted name go.

        Raises:
            NotFound: nothing is promoted under that name.
        """
        engine, promotions = self._running.get(name), self._promotions
        if engine:
            return engine.address
        if promotions is None or name in promotions:
            return EngineAddress(None, {"model": name})
        names = ", ".join(promotions) or "none yet; add one with `tuneline promote RUN --as NAME`"
        raise NotFound(f"{name}: not served here; served are {names}")

    @contextlib.contextmanager
    def use(self, name: str) -> Iterator[EngineAddress]:
        """Hold the engine of a promoted name for a request: it is not stopped before the block ends.

        Raises:
            NotFound: nothing is promoted under that name.
        """
        with self._holding(lambda: self._running.get(name)) as engine:
            yield engine.address if engine else self.resolve(name)

    @contextlib.contextmanager
    def use_version(self, model: str) -> Iterator[EngineAddress | None]:
        """Hold the engine of one version, by its engine's name; None if it does not answer here."""

        def find() -> _Engine | None:
            engines = (*self._running.values(), *self._draining)
            return next((engine for engine in engines if engine.model == model), None)

        with self._holding(find) as engine:
            yield engine.address if engine else None

    def update(self) -> None:
        """Read the promotions, start what is new, and let what it replaces finish its requests.

        An engine that died or hangs is started again.

        Raises:
            StageFailed: an engine does not start. The version before it continues to serve. It is tried again after a
                pause, which grows, or when its files have changed; looks in between raise nothing of it.
        """
        promotions = {name: p for name, p in self._reader.read().items() if p.current.form in self.forms}
        self._promotions = promotions
        for name in set(self._running) - set(promotions):
            self._retire(name)
        failures = []
        for name, promotion in promotions.items():
            try:
                self._ensure_current(name, promotion)
            except Exception as error:  # also a bug in one: the others are started all the same
                if not isinstance(error, TunelineError):
                    log.exception("%s: cannot be started: a bug", name)
                self._retries.note_failure(name, promotion.current)
                failures.append(f"{name}: {error}")
        self._close_drained()
        if failures:
            raise StageFailed("\n".join(failures))

    def stop(self) -> None:
        """Stop all engines."""
        while self._running:
            self._running.popitem()[1].close()
        while self._draining:
            self._draining.pop().close()
        self._starter.close_shared()
        shutil.rmtree(self._logs, ignore_errors=True)

    @contextlib.contextmanager
    def _holding(self, find: Callable[[], _Engine | None]) -> Iterator[_Engine | None]:
        with self._lock:
            engine = find()
            if engine:
                engine.in_flight += 1
        if engine is None:
            yield None
            return
        try:
            yield engine
            engine.liveness.note_answer()
        finally:
            with self._lock:
                engine.in_flight -= 1
                engine.used_at = time.monotonic()

    def _is_current(self, name: str) -> bool:
        running, promotions = self._running.get(name), self._promotions or {}
        return running is not None and name in promotions and running.version == promotions[name].current

    def _ensure_current(self, name: str, promotion: Promotion) -> None:
        """Start the current version of a name unless it runs and answers; the one before it is drained."""
        previous, version = self._running.get(name), promotion.current
        if previous and not previous.alive:
            self._close_failed(name)
        elif previous and previous.version == version:
            return
        if not self._retries.is_due(name, version):
            return
        tool_selector = load_tool_selector(paths.run_folder(version.run))
        control_tokens, fields = read_control_tokens(version), read_request_fields(version)
        versions = [promoted.current for promoted in (self._promotions or {}).values()]
        with ExitStack() as stack:  # a server that nobody knows of would stay
            server = stack.enter_context(self._starter.serving(promotion, versions))
            model = engine_name(promotion)
            watch = self._watch(server.base_url, model)
            engine = _Engine(version, server, stack.pop_all(), model, tool_selector, fields, control_tokens, watch)
        log.info("%s: version %d (%s) answers", name, version.number, version.run)
        self._retries.note_start(name)
        self._retire(name, engine)

    def _retire(self, name: str, successor: _Engine | None = None) -> None:
        """Let a name be answered by `successor`, or by nobody, from now on."""
        with self._lock:
            if previous := self._running.pop(name, None):
                previous.retired_at = previous.used_at = time.monotonic()
                self._draining.append(previous)
            if successor:
                self._running[name] = successor

    def _close_drained(self) -> None:
        """Stop the replaced engines that have no request any more, and those that take too long."""
        now = time.monotonic()
        with self._lock:
            drained = [
                engine
                for engine in self._draining
                if (not engine.in_flight and now - engine.used_at >= self._linger_s)
                or now - engine.retired_at >= DRAIN_S
                or not engine.alive
            ]
            self._draining = [engine for engine in self._draining if engine not in drained]
        for engine in drained:
            engine.close()

    def _close_failed(self, name: str) -> None:
        """Stop an engine that died or hangs, also the vLLM that it shares with others."""
        with self._lock:
            engine = self._running.pop(name)
        log.error("%s: its engine %s; it is started again", name, "hangs" if engine.liveness.hung else "ended")
        self._starter.close_shared(engine.server)
        engine.close()
