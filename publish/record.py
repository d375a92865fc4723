"""The record of what was published: `published.json` in a run, replaced whole after each step."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneline.core.errors import StageFailed
from tuneline.core.files import write_atomic
from tuneline.core.redaction import redact_texts

FILE = "published.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StepRecord(_Record):
    """A step that was executed."""

    content: str
    """SHA-256 of what it sent."""
    at: datetime
    values: dict[str, str] = {}


class Comparison(_Record):
    """The published model's answers to the prompts of the run's suites, compared with the local model's."""

    prompts: int
    same: int
    required: int
    """The fewest equal answers that count as the same model."""
    answers_of: str
    """The local model, a target of the run's evaluation."""
    different: tuple[str, ...] = ()
    """Ids of the items with another answer."""
    reason: str = ""
    """Why nothing was compared, or what was compared instead."""

    @property
    def passed(self) -> bool:
        return self.same >= self.required


class TargetRecord(_Record):
    """One target's part of the record."""

    state: Literal["publishing", "published", "withdrawing", "withdrawn"] = "publishing"
    began: datetime
    ended: datetime | None = None
    settings: dict[str, Any] = {}
    """The target's section that it was published with."""
    steps: dict[str, StepRecord] = {}
    compared: Comparison | None = None

    @property
    def values(self) -> dict[str, str]:
        """What the steps returned, later ones on top."""
        return {name: value for step in self.steps.values() for name, value in step.values.items()}


class Published(_Record):
    """The whole of published.json."""

    targets: dict[str, TargetRecord] = {}


def read_published(run: Path) -> Published:
    """Return the record of a run; an empty one if it was never published.

    Raises:
        StageFailed: it is damaged.
    """
    try:
        return Published.model_validate_json((run / FILE).read_bytes())
    except FileNotFoundError:
        return Published()
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise StageFailed(f"{run / FILE}: damaged: {reason}; remove it, and publish again") from None


def write_published(run: Path, published: Published) -> None:
    """Replace the record of a run; credentials that a host's answer repeats are masked."""
    record = redact_texts(published.model_dump(mode="json", exclude_defaults=True))
    write_atomic(run / FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def now() -> datetime:
    """Return the current time as it is recorded."""
    return datetime.now(UTC)
