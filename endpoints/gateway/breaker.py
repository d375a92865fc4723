"""A circuit breaker of one upstream: after failures in a row it is left alone, then tried by single requests."""

import random
import time
from collections.abc import Callable

FAILURES = 5
"""Failures in a row that open it."""
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 15.0
"""So an upstream that has recovered serves again within this time."""


class Breaker:
    """Closed: everything passes. Open: nothing does, for a time. Half open: one request tries."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._open_until = 0.0
        self._probing = False

    @property
    def state(self) -> str:
        """`closed`, `open` or `half open`."""
        if self._failures < FAILURES:
            return "closed"
        return "open" if self._clock() < self._open_until else "half open"

    @property
    def opens_in_s(self) -> float:
        """Seconds until the next request is let through."""
        return max(0.0, self._open_until - self._clock())

    def allow(self) -> bool:
        """Return whether a request may pass; a true answer must be followed by `succeed`, `fail` or `release`."""
        if self.state == "closed":
            return True
        if self.state == "open" or self._probing:
            return False
        self._probing = True
        return True

    def succeed(self) -> None:
        self._failures, self._pause_s, self._probing = 0, FIRST_PAUSE_S, False

    def fail(self) -> None:
        """Count a failure; each pause is twice the one before, shortened at random so that gateways do not march."""
        was_closed, self._probing = self._failures < FAILURES, False
        self._failures += 1
        if self._failures < FAILURES:
            return
        if not was_closed:
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._open_until = self._clock() + self._pause_s * random.uniform(0.7, 1.0)

    def release(self) -> None:
        """Let the next request try: this one was given up, which says nothing of the upstream."""
        self._probing = False
