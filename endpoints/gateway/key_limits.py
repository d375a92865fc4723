"""What a key may: its models and tasks, its requests and tokens per minute, its budget a day and a month.

Counted by `limits`, in memory or in Redis or Valkey, so that several gateways count together. Where the shared storage
fails, each gateway counts for itself until it is back: keys go on working, and nobody gets more than that.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute, RateLimitItemPerMonth
from limits.aio.storage import Storage
from limits.aio.strategies import FixedWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter
from limits.storage import storage_from_string

from tuneline.core.redaction import redact_url
from tuneline.endpoints.gateway.api_errors import ApiError
from tuneline.endpoints.gateway.key_index import Key
from tuneline.endpoints.gateway.request_body import Body
from tuneline.endpoints.gateway.routing import Plan

log = logging.getLogger(__name__)

MICRO = 1_000_000
"""Money is counted in millionths of a dollar: counters are whole numbers."""
UNLIMITED = 10**15
"""Above all that is counted, and below what Redis counts exactly (2^53)."""


class KeyLimits:
    """Counters of all keys."""

    def __init__(self, storage: str = "memory", now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """`storage` is `memory` or the address of a Redis or Valkey."""
        self._now = now
        self._name = redact_url(storage)
        shared = [] if storage == "memory" else [_Counters(f"async+redis://{storage.partition('://')[2]}")]
        self._counters = [*shared, _Counters("async+memory://")]

    async def admit(self, key: Key, plan: Plan, body: Body) -> None:
        """Count a request.

        Raises:
            ApiError: 403, 404 or 429 for what the key may not.
        """
        if key.models and plan.model not in key.models:
            raise ApiError(404, f"{plan.model}: not among this key's models", code="model_not_found", param="model")
        if key.tasks and plan.task not in key.tasks:
            raise ApiError(403, f"{plan.task}: not among this key's tasks ({', '.join(key.tasks)})", code="task")
        for window, usd in (("day", key.usd_per_day), ("month", key.usd_per_month)):
            if usd and await self._used(window, key.owner) >= usd * MICRO:
                raise ApiError(429, f"the key's budget of {usd:g} USD per {window} is spent", code="insufficient_quota")
        if (most := key.tokens_per_minute) and await self._used("tokens", key.owner) >= most:
            raise ApiError(429, f"more than {most} tokens per minute", retry_after_s=10, code="tokens")
        if (most := key.requests_per_minute) and not await self._take_request(key.owner, most):
            raise ApiError(429, f"more than {most} requests per minute", retry_after_s=60 / most, code="requests")

    async def spend(self, key: Key, tokens: int, usd: float) -> None:
        """Count what a request took, once it is known."""
        if key.tokens_per_minute and tokens:
            await self._add("tokens", key.owner, tokens)
        if micro := round(usd * MICRO):
            for window in ("day", "month"):  # also without a budget: one may be set later
                await self._add(window, key.owner, micro)

    async def restore(self, records: Iterable[Mapping[str, Any]], now: datetime) -> None:
        """Count again what this day's and this month's requests cost: a restart gives nobody a new budget.

        Only where this process alone counts; a shared storage has kept them.
        """
        if len(self._counters) > 1:
            return
        for window, begins in (("day", now.date().isoformat()), ("month", now.date().isoformat()[:7])):
            spent: dict[str, float] = {}
            for record in records:
                if record.get("key") and str(record.get("at", "")).startswith(begins):
                    spent[record["key"]] = spent.get(record["key"], 0.0) + float(record.get("usd") or 0)
            for owner, usd in spent.items():
                await self._add(window, owner, round(usd * MICRO))

    def _period(self, window: str) -> tuple[str, ...]:
        """Return the calendar's day or month (UTC) that a budget is of; a budget begins again with the next one."""
        day = self._now().date().isoformat()
        return {"day": (day,), "month": (day[:7],)}.get(window, ())

    async def _take_request(self, owner: str, most: int) -> bool:
        """Count a request and return true, unless there were `most` in this minute: one step, also for many at once."""
        for counters in self._counters:
            try:
                return await counters.take_request(owner, most)
            except Exception as error:  # of whatever client the storage has
                self._report(error)
        return True

    async def _used(self, window: str, owner: str) -> int:
        for counters in self._counters:
            try:
                return await counters.used(window, owner, *self._period(window))
            except Exception as error:  # of whatever client the storage has
                self._report(error)
        return 0

    async def _add(self, window: str, owner: str, cost: int) -> None:
        for counters in self._counters:
            try:
                await counters.add(window, cost, owner, *self._period(window))
                return
            except Exception as error:
                self._report(error)

    def _report(self, error: Exception) -> None:
        log.error("%s is unavailable (%s); this gateway counts requests by itself", self._name, type(error).__name__)


class _Counters:
    """Counters in one storage. Tokens and money have no limit here: what was spent is counted, also beyond a key's."""

    def __init__(self, address: str) -> None:
        options: dict[str, str | bool] = (
            {"implementation": "redispy", "wrap_exceptions": True} if "redis" in address else {}
        )
        storage = storage_from_string(address, **options)
        assert isinstance(storage, Storage)
        fixed, sliding = FixedWindowRateLimiter(storage), SlidingWindowCounterRateLimiter(storage)
        self._sliding = sliding
        self._windows: dict[str, tuple[RateLimiter, RateLimitItem]] = {
            "tokens": (sliding, RateLimitItemPerMinute(UNLIMITED)),
            # Of a date each; kept for longer than the 31 days that a month may have.
            "day": (fixed, RateLimitItemPerDay(UNLIMITED, 2)),
            "month": (fixed, RateLimitItemPerMonth(UNLIMITED, 2)),
        }

    async def take_request(self, owner: str, most: int) -> bool:
        return await self._sliding.hit(RateLimitItemPerMinute(most), "requests", owner)

    async def used(self, window: str, *names: str) -> int:
        limiter, item = self._windows[window]
        return UNLIMITED - (await limiter.get_window_stats(item, window, *names)).remaining

    async def add(self, window: str, cost: int, *names: str) -> None:
        limiter, item = self._windows[window]
        await limiter.hit(item, window, *names, cost=cost)
