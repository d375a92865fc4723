"""What a container that belongs to no run takes: a line in the ledger every half minute, since its process began."""

import os
import time
import uuid
from pathlib import Path

from tuneline.configs.hardware import hardware
from tuneline.core import ledger
from tuneline.core.ledger import Kind, Line
from tuneline.core.spending import RECORD_EVERY_S, Attempt


class ContainerMeter:
    """Writes the ledger of this container as `name`, in the folder of a Volume that its caller commits."""

    def __init__(self, kind: Kind, name: str, usd_per_hour: float, folder: Path) -> None:
        self.kind, self.name, self.usd_per_hour, self.folder = kind, name, usd_per_hour, folder
        self._container = uuid.uuid4().hex[:12]
        self._began, self._recorded = time.time() - process_age_s(), -RECORD_EVERY_S

    def record(self, *, is_over: bool = False) -> bool:
        """Write a line if the last one is `RECORD_EVERY_S` old, or the container's work is over; return whether."""
        seconds = time.time() - self._began
        if seconds - self._recorded < RECORD_EVERY_S and not is_over:
            return False
        taken = Attempt(
            stage=self.name,
            began=self._began,
            seconds=round(seconds, 3),
            usd_per_hour=self.usd_per_hour,
            state="ended" if is_over else "running",
        )
        line = Line(
            at=time.time(),
            kind=self.kind,
            name=self.name,
            attempt=self._container,
            where="modal",
            price=hardware().source,
            taken=taken,
        )
        ledger.append_line(self.folder, line, writer=self._container)
        self._recorded = seconds
        return True


def process_age_s() -> float:
    """Return how long this process has run: Modal bills a container while it imports, too. proc(5): `starttime`."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
