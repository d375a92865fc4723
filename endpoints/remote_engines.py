"""The engines of promoted models in containers behind an address, which sleep while nobody asks.

Only a request wakes them, never a look: containers that are looked at would never sleep. The version that a name is
answered by changes here, for all requests at once, when a container says that the new one answers; it never goes back
to an older one.
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPException

from tuneline.core.errors import NotFound
from tuneline.core.web_requests import open_url
from tuneline.endpoints.engine_address import EngineAddress
from tuneline.endpoints.gateway.failures import Failure
from tuneline.endpoints.promotion import Promotion, PromotionReader

log = logging.getLogger(__name__)

LOOK_S = 10.0
"""Longest wait for a container that was up a moment ago."""
WAKE_S = 300.0
"""Longest silence while a container starts; Modal sends a redirect every 150 s, which begins a new one."""
NEVER = float("-inf")


class RemoteEngines:
    """What `EnginePool` is for engines of this machine. `update` is called every few seconds, from one thread."""

    def __init__(
        self, url: str, headers: Mapping[str, str], forms: tuple[str, ...], *, awake_s: float, wake_s: float = WAKE_S
    ) -> None:
        """`headers` open the address. `awake_s`: how long after an answer a container is surely still there."""
        self._url, self._headers, self._forms = url.rstrip("/"), headers, forms
        self._awake_s, self._wake_s = awake_s, wake_s
        self._reader = PromotionReader()
        self._promotions: dict[str, Promotion] | None = None
        self._serving: dict[str, int] = {}
        """Name → number of the version that answers for it."""
        self._answered_at = NEVER
        self._waking: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        """Whether no name is starting: engines that sleep are woken by a request."""
        return self._promotions is not None and "starting" not in self.states().values()

    def states(self) -> dict[str, str]:
        """Return promoted name → `ready`, `starting`, or `asleep`."""
        other = "starting" if self._waking or self._is_awake() else "asleep"
        return {
            name: "ready" if self._is_awake() and self._serving.get(name) == promotion.current.number else other
            for name, promotion in (self._promotions or {}).items()
        }

    def resolve(self, name: str) -> EngineAddress:
        """Return where requests for a promoted name go.

        Raises:
            NotFound: nothing is promoted under that name.
        """
        if self._promotions is not None and name not in self._promotions:
            raise NotFound(f"{name}: not served here")
        number = self._serving.get(name)
        base_url = f"{self._url}/v1" if number is not None and self._is_awake() else None
        return EngineAddress(base_url, {"model": f"{name}-{number}"}, headers=self._headers, follows_redirects=True)

    @contextlib.contextmanager
    def use(self, name: str) -> Iterator[EngineAddress]:
        """Yield where a request for a promoted name goes; wake the engines if they sleep."""
        address = self.resolve(name)
        if address.base_url is None:
            self._wake()
        try:
            yield address
        except Failure as failure:
            if failure.is_fault:  # whether anybody is there is looked at before the next request
                self._answered_at = NEVER
            raise
        self._answered_at = time.monotonic()

    def update(self) -> None:
        """Read the promotions, and change to the versions that answer by now."""
        promotions = {name: p for name, p in self._reader.read().items() if p.current.form in self._forms}
        with self._lock:  # a name that was removed and promoted again begins with 1
            self._serving = {
                name: number
                for name, number in self._serving.items()
                if name in promotions and number <= promotions[name].current.number
            }
        self._promotions = promotions
        waiting = [name for name, p in promotions.items() if self._serving.get(name) != p.current.number]
        if waiting and self._is_awake():
            self._look(LOOK_S)

    def _is_awake(self) -> bool:
        return time.monotonic() - self._answered_at < self._awake_s

    def _wake(self) -> None:
        """Start waiting for a container, unless somebody does."""
        with self._lock:
            if self._waking is None:
                self._waking = threading.Thread(target=self._wait, daemon=True, name="wakes the engines")
                self._waking.start()

    def _wait(self) -> None:
        try:
            self._look(self._wake_s)
        finally:
            self._waking = None

    def _look(self, timeout_s: float) -> None:
        """Ask a container which versions answer there."""
        try:
            with open_url(f"{self._url}/health", headers=dict(self._headers), timeout_s=timeout_s) as response:
                versions = json.load(response)["versions"]
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
            log.error("the engines do not answer at %s: %s", self._url, error)
            return
        with self._lock:
            for version in versions:
                name, _, number = str(version).rpartition("-")
                if number.isdecimal():
                    self._serving[name] = max(self._serving.get(name, 0), int(number))
        self._answered_at = time.monotonic()
