"""The ledger: what was spent, in files that only grow, written while it is spent.

    RUNS/.ledger/NAME.jsonl      a run's attempts, here or on Modal; it stays when the run is removed
    LOGS/.ledger/NAME-ID.jsonl   a container of an endpoint on Modal; SCORES/.ledger of the scheduled evaluation

Each line says how far one attempt is: its seconds so far, the price of an hour, and where that price comes from. The
last line of an attempt counts; those before it tell on which days the time was spent. One file has one writer at a
time: the holder of the run, or the container. A crash can only cut the last line, which is left out.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tuneline.core import jsonl
from tuneline.core.errors import StageFailed
from tuneline.core.spending import FOLDER as ATTEMPTS
from tuneline.core.spending import Attempt, parse_attempt

FOLDER = ".ledger"
NOT_BILLED = "not billed"
UNKNOWN_SOURCE = "not recorded"
Kind = Literal["run", "endpoint", "schedule", "answers"]
"""answers: of providers, in evaluations and for written rows."""
Place = Literal["here", "modal", "unknown"]
"""unknown: of an attempt that is older than the ledger."""


LATEST = 32_503_680_000
"""The year 3000 in Unix seconds: a later time is damage."""


class Line(BaseModel):
    """A line of the ledger."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    at: float = Field(ge=0, lt=LATEST)
    """When it was written, in Unix seconds."""
    kind: Kind
    name: str
    """The run, or the endpoint."""
    attempt: str
    """Identifies the attempt: the name of its record in `RUN/spending`, or the container."""
    where: Place
    price: str
    """Where the price of an hour comes from: a file and its date, or an environment variable."""
    taken: Attempt
    """What the attempt has taken so far."""


@dataclass(frozen=True)
class Spent:
    """What one attempt took on one day."""

    day: date
    """UTC."""
    kind: Kind
    name: str
    stage: str
    where: Place
    hours: float
    usd: float
    """0 where nobody is billed."""
    price: str
    """Where the price of an hour comes from."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-able values, with the names of the fields."""
        return asdict(self) | {"day": self.day.isoformat()}


def append_line(folder: Path, line: Line, writer: str = "") -> None:
    """Append a line to the ledger of what `line.name` names, in `folder`/.ledger.

    `writer` tells the files apart of several that write at a time under one name.

    Raises:
        OSError: the disk takes no more.
    """
    file = _file(folder, f"{line.name}-{writer}" if writer else line.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    jsonl.append(file, line.model_dump(mode="json"))


def end_cut_line(folder: Path, name: str) -> None:
    """Prepare the ledger of `name` for appending after a crash."""
    jsonl.end_cut_line(_file(folder, name))


def _file(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name}.jsonl"


def read_ledger(folder: Path) -> list[Spent]:
    """Return what was spent by the ledger in `folder`, and by attempts of its runs that are older than the ledger.

    Damaged lines are left out.
    """
    lines = [line for file in sorted((folder / FOLDER).glob("*.jsonl")) for line in _read_lines(file)]
    return list(sum_days([*lines, *_read_older(folder, {(line.name, line.attempt) for line in lines})]))


def _read_lines(file: Path) -> Iterator[Line]:
    for line in jsonl.whole_lines(file):
        try:
            yield Line.model_validate_json(line)
        except ValidationError:
            continue


def _read_older(folder: Path, known: set[tuple[str, str]]) -> Iterator[Line]:
    """Yield a line for each attempt of a run that the ledger does not have."""
    for file in sorted(folder.glob(f"*/{ATTEMPTS}/*.json")):
        run = file.parents[1].name
        with contextlib.suppress(StageFailed, ValidationError):  # damaged: named by the command that would spend more
            attempt = parse_attempt(str(file), file.read_bytes())
            if (run, file.stem) not in known:
                yield Line(
                    at=attempt.began + attempt.seconds,
                    kind="run",
                    name=run,
                    attempt=file.stem,
                    where="unknown",
                    price=NOT_BILLED if attempt.usd_per_hour is None else UNKNOWN_SOURCE,
                    taken=attempt,
                )


def sum_days(lines: Iterable[Line]) -> Iterator[Spent]:
    """Yield what each attempt took on each day; an attempt without an end counts up to when its next line was due."""

    def identify(line: Line) -> tuple[str, str, str]:
        return line.kind, line.name, line.attempt

    for _, of_attempt in groupby(sorted(lines, key=lambda line: (identify(line), line.at)), key=identify):
        yield from _sum_attempt(list(of_attempt))


def _sum_attempt(lines: Sequence[Line]) -> Iterator[Spent]:
    days: dict[date, float] = {}
    before = 0.0
    for line in lines:
        day = datetime.fromtimestamp(line.at, UTC).date()
        days[day] = days.get(day, 0.0) + line.taken.seconds - before
        before = line.taken.seconds
    last = lines[-1]
    days[datetime.fromtimestamp(last.at, UTC).date()] += last.taken.counted_s - last.taken.seconds
    for day, seconds in days.items():
        hours = seconds / 3600
        usd = hours * (last.taken.usd_per_hour or 0.0)
        yield Spent(day, last.kind, last.name, last.taken.stage, last.where, hours, usd, last.price)
