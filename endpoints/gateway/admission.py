"""A bounded number of requests at a time, and a bounded queue before it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tuneline.configs.gateway import Limits
from tuneline.endpoints.gateway.api_errors import ApiError


class Admission:
    """Places for requests; who finds none waits, and who finds the queue full is told when to come back."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._places = asyncio.Semaphore(limits.concurrency)
        self.waiting = self.active = 0

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place until the block ends.

        Raises:
            ApiError: 429 if the queue is full, or the wait in it too long.
        """
        if self._places.locked():
            await self._wait()
        else:
            await self._places.acquire()
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1
            self._places.release()

    async def _wait(self) -> None:
        if self.waiting >= self._limits.queue:
            raise ApiError(429, "the gateway is busy and its queue full", retry_after_s=1, code="queue_full")
        self.waiting += 1
        try:
            await asyncio.wait_for(self._places.acquire(), self._limits.queue_s)
        except TimeoutError:
            raise ApiError(429, "the gateway is busy", retry_after_s=self._limits.queue_s, code="queue_full") from None
        finally:
            self.waiting -= 1
