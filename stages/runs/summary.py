"""What one run is, in one line of a table: its state, how far it is, what its gate said, its hours and cost."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tuneline.configs.recipe import RECIPE
from tuneline.core import artifacts
from tuneline.core.errors import TunelineError
from tuneline.core.events import FILE as EVENTS
from tuneline.core.events import parse_event
from tuneline.core.formatting import format_progress
from tuneline.core.spending import FOLDER as ATTEMPTS
from tuneline.core.spending import Attempt, read_attempts, sum_usd
from tuneline.stages.evaluate.verdicts.gate import NO_DEMANDS, gate_of_run, name_outcome
from tuneline.stages.evaluate.verdicts.reason import PASS
from tuneline.stages.line import ORDER
from tuneline.stages.run_artifacts import find_problems, read_stage
from tuneline.stages.runs.failures import read_failure

STAGES = ORDER[1:]
"""The stages whose artifacts are in the run's folder; `fetch` belongs to the models."""
State = Literal["running", "interrupted", "failed", "finished", "refused by gate", "partial", "stale"]
"""running: a live process or call works on it. interrupted: it was stopped or killed. failed: `reason` says why.
finished: evaluated, and the gate let it pass. refused by gate: evaluated, and it did not. partial: its last command
ended well, and later stages are to do. stale: a stage is damaged, or made from something else than is there now."""
TAIL_BYTES = 64 * 1024
"""How much of a run's events is read for its progress."""


@dataclass(frozen=True)
class RunSummary:
    """One run, on this machine or on Modal."""

    run: str
    where: Literal["here", "modal"]
    state: State
    stage: str
    """The last stage that was worked on; "" if none was."""
    progress: str
    """How far that stage is, as in `6/10 steps`; "" if it is finished or nothing is known."""
    base: str
    gate: str
    """pass, fail, insufficient evidence, or no demands; "" if it is not evaluated."""
    promoted_as: tuple[str, ...]
    """The names that it serves now."""
    at: datetime
    """When it was last worked on."""
    hours: float
    """Working time of all attempts at all stages."""
    usd: float | None
    """Their cost; None if nobody is billed."""
    reason: str
    """Why it failed or is stale, with the next command; "" otherwise."""
    next_command: str
    """What to type next; "" if nothing has to be done."""
    stages: Mapping[str, str] = field(default_factory=dict)
    """Stage → `finished`, `stale`, `running`, `interrupted`, `failed` or `open`."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-able values, with the names of the fields."""
        return asdict(self) | {"at": self.at.isoformat(timespec="seconds"), "promoted_as": list(self.promoted_as)}


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run's: it has a recipe, or, in its first seconds, the record of an attempt."""
    return (folder / RECIPE).exists() or any((folder / ATTEMPTS).glob("*.json"))


def summarize_run(
    folder: Path, *, is_running: bool, promoted_as: Sequence[str] = (), where: Literal["here", "modal"] = "here"
) -> RunSummary:
    """Return what is known of the run in `folder`; `is_running` says whether a live process or call works on it."""
    attempts, problems = _read_attempts(folder), find_problems(folder, read_stage)
    failure, gate = read_failure(folder), "" if "evaluate" in problems else _read_gate(folder)
    stage = _last_stage(folder, attempts)
    state: State = "running" if is_running else "failed" if failure else "stale" if problems else "partial"
    if state == "partial":
        state = _decide_state(folder, gate, attempts)
    reason = failure.message if state == "failed" and failure else next(iter(problems.values()), "")
    return RunSummary(
        run=folder.name,
        where=where,
        state=state,
        stage=stage,
        progress="" if state in ("finished", "refused by gate", "partial") else _read_progress(folder, stage),
        base=_read_base(folder),
        gate=gate,
        promoted_as=tuple(promoted_as),
        at=_read_time(folder, attempts),
        hours=sum(attempt.counted_s for attempt in attempts) / 3600,
        usd=sum_usd(attempts) if any(attempt.usd_per_hour is not None for attempt in attempts) else None,
        reason=reason,
        next_command=_next_command(folder.name, state, where),
        stages=_read_stages(folder, problems, stage, state),
    )


def _read_attempts(folder: Path) -> list[Attempt]:
    with contextlib.suppress(TunelineError):  # a damaged record is named by the command that would spend more
        return read_attempts(folder)
    return []


def _read_gate(folder: Path) -> str:
    with contextlib.suppress(TunelineError, KeyError, TypeError, AttributeError):  # older, or damaged
        gate = gate_of_run(folder, artifacts.read_artifact(folder / "evaluate").metrics["gate"])
        return name_outcome(gate)
    return ""


def _last_stage(folder: Path, attempts: Sequence[Attempt]) -> str:
    begun = [stage for stage in STAGES if (folder / stage).exists()]
    return attempts[-1].stage if attempts else begun[-1] if begun else ""


def _decide_state(folder: Path, gate: str, attempts: Sequence[Attempt]) -> State:
    """Return the state of a run that nobody works on, and that neither failed nor is stale."""
    if gate:
        return "finished" if gate in (PASS, NO_DEMANDS) else "refused by gate"
    unfinished = [stage for stage in STAGES if (folder / stage).exists() and not artifacts.is_finished(folder / stage)]
    return "interrupted" if unfinished or (attempts and attempts[-1].state != "finished") else "partial"


def _read_stages(folder: Path, problems: Mapping[str, str], last: str, state: State) -> dict[str, str]:
    def describe(stage: str) -> str:
        if stage in problems:
            return "stale"
        if artifacts.is_finished(folder / stage):
            return "finished"
        if stage == last and state in ("running", "failed", "interrupted"):
            return state
        return "interrupted" if (folder / stage / artifacts.DRAFT).exists() else "open"

    return {stage: describe(stage) for stage in STAGES}


def _read_progress(folder: Path, stage: str) -> str:
    """Return how far a stage is by the last event that says so."""
    for line in reversed(_read_tail(folder / EVENTS).splitlines()):
        event = parse_event(line)
        if event is None or event["stage"] != stage:
            continue
        if event["kind"] == "progress":
            return format_progress(event["done"], event["total"], event["unit"])
        if event["kind"] == "metrics" and "steps" in event:
            return format_progress(event["step"], event["steps"], "steps")
        if event["kind"] == "started":
            return ""
    return ""


def _read_tail(file: Path) -> bytes:
    with contextlib.suppress(FileNotFoundError), file.open("rb") as content:
        content.seek(max(0, file.stat().st_size - TAIL_BYTES))
        return content.read()
    return b""


def _read_base(folder: Path) -> str:
    """Return the recipe's base; the recipe is not checked: it may be an older version's, or of files elsewhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        return str(json.loads((folder / RECIPE).read_bytes()).get("base", ""))
    return ""


def _read_time(folder: Path, attempts: Sequence[Attempt]) -> datetime:
    with contextlib.suppress(ValueError, OverflowError, OSError):  # no attempt, or a time that no calendar has
        return datetime.fromtimestamp(max(attempt.began + attempt.seconds for attempt in attempts), UTC)
    return datetime.fromtimestamp(folder.stat().st_mtime, UTC)


def _next_command(run: str, state: State, where: str) -> str:
    modal = " --modal" if where == "modal" else ""
    commands = {
        "running": f"tuneline runs logs {run} -f{modal}",
        "interrupted": f"tuneline runs resume {run}{modal}",
        "failed": f"tuneline runs resume {run}{modal}",
        "partial": f"tuneline runs resume {run} --until evaluate{modal}",
        "stale": f"tuneline runs show {run}{modal}",
        "refused by gate": f"tuneline report {run}" if where == "here" else f"tuneline runs show {run}{modal}",
    }
    return commands.get(state, "")
