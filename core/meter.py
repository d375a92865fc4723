"""Counts one attempt at a stage while it runs, writes it down beside the run, and knows when to stop it."""

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, time
from types import TracebackType
from typing import Literal, Self

from tuneline.core import ledger
from tuneline.core.errors import StageFailed, explain_os_error
from tuneline.core.files import write_atomic
from tuneline.core.ledger import Line, Place
from tuneline.core.spending import FOLDER, PRICE_VARIABLE, RECORD_EVERY_S, Attempt, read_attempts, sum_hours, sum_usd

Limit = Literal["call", "hours", "usd"]


@dataclass(frozen=True)
class Limits:
    """When an attempt must stop; None is no limit."""

    hours: float | None = None
    """Hours of the stage, over all attempts since it was last finished."""
    usd: float | None = None
    """USD of the run, over all attempts at all stages."""
    call_s: float | None = None
    """Seconds of this attempt; after that another goes on."""
    stop_s: float = 0.0
    """Seconds granted for stopping, after `hours` and `call_s`."""
    hours_remedy: str = ""
    """What to do when `hours` are over; completes an error message."""


class Meter:
    """Measures one attempt from `age_s` before its construction; use it as a context manager.

    `usd_per_hour` None counts hours alone; `price_source` says where it comes from, for the ledger. `publish` is called
    after each record.

    Raises:
        StageFailed: on entering, if a limit is reached already.
    """

    def __init__(
        self,
        run: Path,
        stage: str,
        limits: Limits,
        usd_per_hour: float | None = None,
        *,
        price_source: str = PRICE_VARIABLE,
        where: Place = "here",
        age_s: float = 0.0,
        publish: Callable[[], None] = lambda: None,
    ) -> None:
        self.stage, self.limits, self.usd_per_hour = stage, limits, usd_per_hour
        self.stop_s = limits.stop_s
        """Seconds that stopping takes as far as is known; may be set while the stage runs."""
        attempts = read_attempts(run)
        self._hours_before, self._usd_before = sum_hours(attempts, stage), sum_usd(attempts)
        self._age_s = age_s
        self._monotonic, self._began, self._publish = monotonic() - age_s, time() - age_s, publish
        self._recorded, self._publish_s, self._finished = -RECORD_EVERY_S, 0.0, False
        name = f"{datetime.fromtimestamp(self._began, UTC):%Y-%m-%dT%H-%M-%S}-{stage}-{uuid.uuid4().hex[:6]}.json"
        self._file = run / FOLDER / name
        self._price_source, self._where = price_source if usd_per_hour is not None else ledger.NOT_BILLED, where

    def __enter__(self) -> Self:
        limit = self.reached()
        if limit and not self._age_s:
            raise self.error(limit, "nothing was started")
        ledger.end_cut_line(self._file.parents[2], self._file.parents[1].name)
        if limit:  # the container's start is billed, too
            self._write("ended")
            self.publish()
            raise self.error(limit, "nothing was started")
        self.record()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(StageFailed) if error else contextlib.nullcontext():  # the first error says more
            self._write("finished" if self._finished else "ended")
            self.publish()

    @property
    def seconds(self) -> float:
        """Seconds of this attempt up to now."""
        return monotonic() - self._monotonic

    @property
    def hours(self) -> float:
        """Hours of the stage up to now, as `Limits.hours` counts them."""
        return self._hours_before + self.seconds / 3600

    @property
    def usd(self) -> float:
        """USD of the run up to now."""
        return self._usd_before + self._usd_of(self.seconds)

    def reached(self) -> Limit | None:
        """Return the limit that is reached, or None.

        Time to stop is granted after `hours` and `call_s`; if stopping takes longer than that, it begins earlier.
        USD are never exceeded: stopping begins while there is money left for it.
        """
        early_s = max(0.0, self.stop_s - self.limits.stop_s)
        if (
            self.limits.usd is not None
            and self.usd_per_hour
            and self.usd + self._usd_of(self.stop_s) >= self.limits.usd
        ):
            return "usd"
        if self.limits.hours is not None and self.hours + early_s / 3600 >= self.limits.hours:
            return "hours"
        if self.limits.call_s is not None and self.seconds + early_s >= self.limits.call_s:
            return "call"
        return None

    def record(self) -> None:
        """Write the attempt down and publish it, if the last record is `RECORD_EVERY_S` old."""
        if self.seconds - self._recorded >= RECORD_EVERY_S:
            self._write("running")
            self.publish()

    def publish(self) -> None:
        """Publish what was written, and remember how long that took."""
        began = monotonic()
        self._publish()
        self._publish_s = max(self._publish_s, monotonic() - began)

    def finish(self) -> None:
        """Note that the stage has its artifact: these attempts count no more against the stage's hours."""
        self._finished = True

    def error(self, limit: Limit, consequence: str) -> StageFailed:
        """Return the error to raise when a limit is reached; `consequence` says what became of the stage."""
        if limit == "usd":
            reserve = f", and stopping takes {self._usd_of(self.stop_s):.2f}" if self.stop_s else ""
            return StageFailed(
                f"compute.max_cost_usd: {self.limits.usd:g}: {self.usd:.2f} USD have been spent{reserve}; "
                f"{consequence}; to continue, raise the limit in the recipe and run the same command again"
            )
        if limit == "call":
            return StageFailed(f"{self.stage}: this call has reached its time limit; {consequence}")
        used = f"{self.hours:.3g} h, over all its calls"
        return StageFailed(f"{self.stage} has used its time, {used}; {consequence}; {self.limits.hours_remedy}")

    def _usd_of(self, seconds: float) -> float:
        return (self.usd_per_hour or 0.0) * seconds / 3600

    def _write(self, state: Literal["running", "ended", "finished"]) -> None:
        attempt = Attempt(
            stage=self.stage,
            began=self._began,
            seconds=round(self.seconds, 3),
            usd_per_hour=self.usd_per_hour,
            state=state,
            publish_s=round(self._publish_s, 3),
        )
        run = self._file.parents[1]
        line = Line(
            at=time(),
            kind="run",
            name=run.name,
            attempt=self._file.stem,
            where=self._where,
            price=self._price_source,
            taken=attempt,
        )
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._file, attempt.model_dump_json())
            ledger.append_line(run.parent, line)
        except OSError as error:
            reason = explain_os_error(error) or error
            raise StageFailed(f"cannot record the time and cost of {self.stage}: {reason}") from None
        self._recorded = self.seconds
