"""What the scheduled evaluation found of each promoted name, over time."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuneline.core.errors import StageFailed
from tuneline.core.user_files import read_json


@dataclass(frozen=True)
class Score:
    """One suite of one evaluation of a promoted name; or an evaluation that failed, without a suite."""

    name: str
    at: str
    """ISO, UTC."""
    run: str
    version: int | None
    """Number of the promoted version."""
    suite: str
    n: int
    right_tool: float | None
    low: float | None
    """Of the interval of `right_tool`."""
    high: float | None
    exact: float | None
    is_worse: bool
    """Whether a share of this suite fell by more than the tolerance."""
    worse: tuple[str, ...]
    """`SUITE: SHARE, was SHARE (what it is compared with)`."""
    error: str
    """Why the evaluation failed; "" if it did not."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-able values, with the names of the fields."""
        return asdict(self)


def read_score_history(folder: Path, name: str | None = None) -> list[Score]:
    """Return what was found of `name`, or of every name, oldest first; files that are damaged are left out."""
    files = sorted(folder.glob(f"{name or '*'}/*.json"))
    return [score for file in files for score in _read_scores(file)]


def _read_scores(file: Path) -> Iterator[Score]:
    try:
        record = read_json(file, StageFailed)
        name, at = str(record["name"]), str(record["at"])
        suites = record.get("suites") or {"": {}}
        worse = tuple(map(str, record.get("worse", ())))
        for suite, row in suites.items():
            yield Score(
                name=name,
                at=at,
                run=str(record.get("run", "")),
                version=record.get("version"),
                suite=suite,
                n=row.get("n", 0),
                right_tool=row.get("name_accuracy"),
                low=row.get("name_low"),
                high=row.get("name_high"),
                exact=row.get("exact_accuracy"),
                is_worse=any(reason.startswith(f"{suite}: ") for reason in worse if suite),
                worse=tuple(reason for reason in worse if suite and reason.startswith(f"{suite}: ")),
                error=str(record.get("error", "")),
            )
    except (StageFailed, OSError, KeyError, TypeError, AttributeError):
        return
