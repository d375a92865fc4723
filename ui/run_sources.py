"""Runs as the page shows them: those of this machine, and, with what reads them, those on Modal."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import recipe_of
from tuneline.core import paths
from tuneline.core.errors import TunelineError
from tuneline.core.events import Follower, parse_event
from tuneline.core.spending import read_attempts, sum_hours, sum_usd
from tuneline.endpoints.run_list import list_runs
from tuneline.stages.plan.stage_bounds import STAGES, bound_stages
from tuneline.stages.runs.summary import RunSummary

CURVES = {
    "loss": "loss",
    "validation_loss": "validation",
    "tokens_per_second": "tokens/s",
    "memory_gb": "memory, GB",
}
"""Fields of `metrics` events that are drawn, with what they are called."""
MOST_POINTS = 1_500
"""Points of a curve; of more, every second one is left out."""


@dataclass(frozen=True)
class RemoteRuns:
    """What reads the runs on Modal."""

    list_runs: Callable[[], list[RunSummary]]
    read_events: Callable[[str], bytes]


@dataclass
class RunCurves:
    """The curves of a run's training, which `refresh` continues."""

    read_new: Callable[[], list[dict[str, Any]]]
    points: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Field of `CURVES` → (step, value)."""
    _reading: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self) -> bool:
        """Read what is new, and return whether anything was; each event counts once, also with two readers."""
        with self._reading:
            events = self.read_new()
            for event in events:
                if event["kind"] == "metrics":
                    self._add(event)
        return bool(events)

    def _add(self, event: dict[str, Any]) -> None:
        for name in CURVES:
            if isinstance(value := event.get(name), int | float):
                points = self.points.setdefault(name, [])
                points.append((event["step"], value))
                if len(points) > MOST_POINTS:
                    del points[1::2]


@dataclass(frozen=True)
class StageSpent:
    """What a stage took so far, and what it may take."""

    stage: str
    state: str
    hours: float
    hours_at_most: float | None
    """None where the recipe is of another version, and says nothing."""
    usd: float | None
    """None if it is not billed."""
    usd_at_most: float | None
    """On Modal; None as for hours."""


class RunSources:
    """Where runs are read."""

    def __init__(self, remote: RemoteRuns | None = None) -> None:
        self._remote = remote

    def list_runs(self) -> tuple[list[RunSummary], str]:
        """Return all runs, the last worked on first, and why those on Modal are missing if they are."""
        runs, problem = list_runs(), ""
        if self._remote:
            try:
                runs += self._remote.list_runs()
            except TunelineError as error:
                problem = str(error)
        return sorted(runs, key=lambda run: run.at, reverse=True), problem

    def open_curves(self, run: RunSummary) -> RunCurves:
        """Return a run's curves, empty until they are refreshed."""
        if run.where == "here":
            follower = Follower(paths.run_folder(run.run))
            return RunCurves(lambda: list(follower.new_events()))
        assert self._remote
        return RunCurves(_NewLines(partial(self._remote.read_events, run.run)))


class _NewLines:
    """The events of a remote run since the last look."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read, self._offset = read, 0

    def __call__(self) -> list[dict[str, Any]]:
        content = self._read()
        new = content[self._offset : content.rfind(b"\n") + 1]
        self._offset += len(new)
        return [event for line in new.splitlines() if (event := parse_event(line))]


def list_spent(run: RunSummary) -> list[StageSpent]:
    """Return what each stage of a run here took, against its bounds; nothing of a run on Modal."""
    if run.where != "here":
        return []
    folder = paths.run_folder(run.run)
    bounds = _read_bounds(folder)
    try:
        attempts = read_attempts(folder)
    except TunelineError:
        attempts = []
    spent = []
    for stage, state in run.stages.items():
        of_stage = [attempt for attempt in attempts if attempt.stage == stage]
        billed = any(attempt.usd_per_hour is not None for attempt in of_stage)
        hours_at_most, usd_at_most = bounds.get(stage, (None, None))
        hours = sum(attempt.counted_s for attempt in of_stage) / 3600 or sum_hours(of_stage, stage)
        spent.append(StageSpent(stage, state, hours, hours_at_most, sum_usd(of_stage) if billed else None, usd_at_most))
    return spent


def _read_bounds(folder: Path) -> dict[str, tuple[float | None, float | None]]:
    """Return stage → hours and USD at most, on Modal's hardware as the recipe has it."""
    try:
        return {bound.stage: (bound.hours, bound.usd_at_most) for bound in bound_stages(recipe_of(folder), STAGES)}
    except (TunelineError, ValueError, OSError):
        return {}
