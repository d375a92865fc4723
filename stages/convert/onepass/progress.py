"""Progress of a pass over the base, in bytes."""

import time
from collections.abc import Callable

from tuneline.stages.convert.task import ReportProgress

Progress = Callable[[int, int], None]
"""Called with how many bytes of the base are finished, and how many there are."""

INTERVAL_S = 0.5


class ThrottledProgress:
    """Reports progress at most twice a second, with the speed and the time that is left."""

    def __init__(self, report: ReportProgress) -> None:
        self._report, self._started, self._first, self._reported = report, time.monotonic(), -1, 0.0

    def __call__(self, finished: int, total: int) -> None:
        now = time.monotonic()
        if self._first < 0:
            self._first = finished
        if finished < total and now - self._reported < INTERVAL_S:
            return
        self._reported = now
        speed = (finished - self._first) / max(now - self._started, 1e-9)
        left = f", {(total - finished) / speed:.0f} s left" if speed and finished < total else ""
        self._report(done=finished, total=total, text=f"{speed / 1e6:.0f} MB/s{left}" if speed else "")
