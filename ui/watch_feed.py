"""What Watch shows, read once for all opened pages: the gateway's metrics over HTTP, and its log where it is here."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

from tuneline.core import paths
from tuneline.core.errors import TunelineError
from tuneline.endpoints.traffic.rollouts import Rollout
from tuneline.ui.gateway_client import GatewayClient
from tuneline.ui.gateway_state import GatewayState, parse_state
from tuneline.ui.log_window import LogWindow
from tuneline.ui.traffic_history import TrafficHistory

EVERY_S = 2.0
"""Between two looks. One costs the gateway a millisecond or two, of which `/metrics` is all."""
KEPT_S = 600


@dataclass(frozen=True)
class Rates:
    """Between two looks at the metrics."""

    at: float
    """Unix time."""
    requests_per_s: float
    errors_per_s: float
    tokens_per_s: float


@dataclass
class WatchFeed:
    """The newest state, and rates over the last minutes. The gateway is only asked while a page is looking."""

    client: GatewayClient | None
    log: LogWindow | None
    """None where the gateway's log is elsewhere."""
    traffic: TrafficHistory | None
    state: GatewayState | None = None
    problem: str = ""
    rates: deque[Rates] = field(default_factory=deque)
    rollouts: list[Rollout] = field(default_factory=list)
    _looked_at: float = 0.0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def refresh(self) -> None:
        """Look again, unless another page just did."""
        async with self._lock:
            if time.monotonic() - self._looked_at < 0.9 * EVERY_S:
                return
            before, elapsed_s = self.state, time.monotonic() - self._looked_at
            self._looked_at = time.monotonic()
            await self._read_metrics()
            if before and self.state and elapsed_s < 5 * EVERY_S:
                self._add_rates(before, self.state, elapsed_s)
            try:
                await asyncio.to_thread(self._read_log)
            except TunelineError as error:
                self.problem = str(error)

    async def _read_metrics(self) -> None:
        self.problem = ""
        if self.client is None:
            self.state, self.problem = None, "there is no gateway to watch; start one with `tuneline gateway`"
            return
        try:
            self.state = parse_state(await self.client.read_metrics())
        except TunelineError as error:
            self.state, self.problem = None, str(error)
        except ValueError:
            self.state, self.problem = None, f"{self.client.url}/metrics: no metrics of a gateway"

    def _add_rates(self, before: GatewayState, now: GatewayState, elapsed_s: float) -> None:
        def rate(start: float, end: float) -> float:
            return max(0.0, end - start) / elapsed_s  # a gateway that was started again counts from 0

        self.rates.append(
            Rates(
                time.time(),
                rate(before.requests, now.requests),
                rate(before.errors, now.errors),
                rate(before.tokens, now.tokens),
            )
        )
        while self.rates and self.rates[0].at < time.time() - KEPT_S:
            self.rates.popleft()

    def _read_log(self) -> None:
        if self.log:
            self.log.refresh()
        if self.traffic:
            self.rollouts = self.traffic.refresh()


def open_feed(client: GatewayClient | None, traffic: TrafficHistory | None, *, is_here: bool) -> WatchFeed:
    """Return the feed of a gateway; `is_here` says whether it writes its log on this machine."""
    return WatchFeed(client, LogWindow(paths.logs()) if is_here else None, traffic)
