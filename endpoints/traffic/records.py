"""The record of traffic: for each model and task every move between steps, who made it, when, and on which numbers.

`<policy>/traffic/MODEL.json` is replaced as a whole, by whoever holds the policy's lock. Readers keep the last good
content of a file that is broken or gone.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneline.configs.gateway import OTHER, STEPS, Step
from tuneline.core import paths
from tuneline.core.errors import BadRequest
from tuneline.core.files import write_atomic
from tuneline.core.locks import change_lock
from tuneline.core.paths import NAME

log = logging.getLogger(__name__)

FIRST: Step = "shadow"
"""Where a candidate begins that nobody has moved."""


class Move(BaseModel):
    """One move to a step, or a hold at one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    step: Step
    at: datetime
    by: str
    """Who moved it; `evidence` if the gateway did."""
    why: str = ""
    held: bool = False
    """Whether it stays here until a person moves it."""
    evidence: dict[str, Any] = {}
    """The numbers that it was decided on."""


class TrafficRecord(BaseModel):
    """All moves of a model, by task, oldest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    tasks: dict[str, tuple[Move, ...]] = {}


@dataclass(frozen=True)
class CurrentStep:
    """Where a model's task is now."""

    step: Step
    number: int
    since: datetime
    held: bool
    salt: str


BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


def current_step(record: TrafficRecord | None, model: str, task: str) -> CurrentStep:
    """Return where a model's task is: at its last move, else where a candidate begins."""
    moves = record.tasks.get(task, ()) if record else ()
    salt = f"{model}/{task}"
    if not moves:
        return CurrentStep(FIRST, 0, BEGINNING, False, salt)
    return CurrentStep(moves[-1].step, moves[-1].number, moves[-1].at, moves[-1].held, salt)


def move(
    model: str,
    task: str,
    step: Step,
    *,
    by: str,
    why: str = "",
    held: bool = False,
    evidence: dict[str, Any] | None = None,
    expected: int | None = None,
) -> Move | None:
    """Append a move and return it; None if `expected` is not the number of the last move: somebody was faster."""
    with change_lock(paths.policy()):
        record = read_record(model) or TrafficRecord(model=model)
        moves = record.tasks.get(task, ())
        if expected is not None and expected != len(moves):
            return None
        new = Move(
            number=len(moves) + 1,
            step=step,
            at=datetime.now(UTC),
            by=by,
            why=why,
            held=held,
            evidence=evidence or {},
        )
        changed = record.model_copy(update={"tasks": {**record.tasks, task: (*moves, new)}})
        _folder().mkdir(parents=True, exist_ok=True)
        write_atomic(_file(model), changed.model_dump_json(indent=1))
    return new


def read_record(model: str) -> TrafficRecord | None:
    """Return a model's record, or None if nobody has moved it.

    Raises:
        BadRequest: the file is broken.
    """
    file = _file(model)
    if not file.exists():
        return None
    try:
        return TrafficRecord.model_validate_json(file.read_text())
    except (ValidationError, ValueError):
        raise BadRequest(
            f"{file}: not a traffic record; restore it from a backup, or remove it to start over"
        ) from None


def step_before(step: Step) -> Step:
    """Return the step below one, or the lowest."""
    return STEPS[max(0, STEPS.index(step) - 1)]


def step_after(step: Step) -> Step:
    """Return the step above one, or the highest."""
    return STEPS[min(len(STEPS) - 1, STEPS.index(step) + 1)]


class RecordReader:
    """The records of all models, read again when their files change; what cannot be read leaves the last good one."""

    def __init__(self) -> None:
        self._records: dict[str, TrafficRecord | None] = {}
        self._stamps: dict[str, tuple[int, int] | None] = {}

    def step(self, model: str, task: str = OTHER) -> CurrentStep:
        """Return where a model's task is now."""
        stamp = _stamp(_file(model))
        if stamp != self._stamps.get(model, ()) and ((stamp is None and model in self._records) or self._read(model)):
            self._stamps[model] = stamp
        return current_step(self._records.get(model), model, task)

    def _read(self, model: str) -> bool:
        """Read a record and return true, unless its file cannot be opened for now: then it is tried again."""
        try:
            self._records[model] = read_record(model)
        except (BadRequest, OSError) as error:
            log.error("traffic stays where it was: %s", error)
            return not isinstance(error, OSError)
        return True


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _file(model: str) -> Path:
    if not NAME.fullmatch(model):
        raise BadRequest(f"{model!r}: letters, digits, '.', '_' and '-' only, 64 at most")
    return _folder() / f"{model}.json"


def _folder() -> Path:
    return paths.policy() / "traffic"
