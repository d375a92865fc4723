"""Runs: all of them, one in detail, and its events."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Column
from rich.text import Text

from tuneline.cli.views.scoreboard import render_scoreboard
from tuneline.cli.views.tables import make_table
from tuneline.core.formatting import format_small
from tuneline.core.spending import sum_usd
from tuneline.core.terminal import printable

if TYPE_CHECKING:
    from pathlib import Path

    from tuneline.core.artifacts import Artifact
    from tuneline.core.spending import Attempt
    from tuneline.stages.runs.summary import RunSummary


COLUMNS = ("run", "state", "progress", "base", "gate", "promoted as", "date", "hours", "USD")
UNBROKEN = ("run", "date")
HASH_SHOWN = 12
"""Digits of a fingerprint; its manifest has all."""


def render_runs(runs: "Sequence[RunSummary]") -> RenderableType:
    """Return a table of at least one run, and below it why runs failed, with the next commands."""
    places = ("where",) if len({run.where for run in runs}) > 1 else ()
    names = (*COLUMNS[:1], *places, *COLUMNS[1:])
    table = make_table(*(Column(name, no_wrap=True) if name in UNBROKEN else name for name in names))
    for run in runs:
        cells = [run.run, *([run.where] if places else []), run.state, _describe_progress(run), run.base]
        cells += [run.gate or "–", ", ".join(run.promoted_as) or "–", _format_date(run.at), format_small(run.hours)]
        table.add_row(*cells, "–" if run.usd is None else format_small(run.usd))
    return Group(table, *(_render_next_command(run) for run in runs if run.state in ("failed", "stale", "interrupted")))


def _format_date(at: datetime) -> str:
    """Return day and time of this year, or the date of an earlier one."""
    return f"{at:%m-%d %H:%M}" if at.year == datetime.now(UTC).year else f"{at:%Y-%m-%d}"


def _describe_progress(run: "RunSummary") -> str:
    if run.state in ("finished", "refused by gate"):
        return "all stages"
    return f"up to {run.stage}" if run.state == "partial" else f"{run.stage} {run.progress}".strip()


def _render_next_command(run: "RunSummary") -> Text:
    reason = run.reason.splitlines()[0] if run.reason else f"stopped in {run.stage or 'its first stage'}"
    return Text.assemble((f"\n{run.run}", "bold"), f" {run.state}: {reason}\n  {run.next_command}")


def render_run(
    folder: "Path", run: "RunSummary", artifacts: "Mapping[str, Artifact]", attempts: "Sequence[Attempt]"
) -> RenderableType:
    """Return a run's state, its stages with what they took and cost, and its scoreboard if it is evaluated."""
    lines = [f"state: {run.state}" + (f", {_describe_progress(run)}" if run.state == "running" else "")]
    lines += [f"reason: {run.reason}"] if run.reason else []
    lines += [f"gate: {run.gate}"] if run.gate else []
    lines += [f"{'then' if run.state == 'failed' else 'next'}: {run.next_command}"] if run.next_command else []
    scoreboards = (
        [render_scoreboard(artifacts["evaluate"], artifacts["convert"])]
        if {"evaluate", "convert"} <= artifacts.keys()
        else []
    )
    title = Text.assemble((folder.name, "bold"), f"  {folder if run.where == 'here' else 'on Modal'}")
    return Group(
        title, *map(Text, lines), _render_stages(run, artifacts, attempts), *_list_machines(artifacts), *scoreboards
    )


def _render_stages(
    run: "RunSummary", artifacts: "Mapping[str, Artifact]", attempts: "Sequence[Attempt]"
) -> RenderableType:
    table = make_table("stage", "state", "attempts", "hours", "USD", Column("fingerprint", no_wrap=True), "made")
    for stage in dict.fromkeys([*(attempt.stage for attempt in attempts), *run.stages, *artifacts]):
        of_stage = [attempt for attempt in attempts if attempt.stage == stage]
        state = run.stages.get(stage, of_stage[-1].state if of_stage else "finished")
        usd = format_small(sum_usd(of_stage)) if any(attempt.usd_per_hour is not None for attempt in of_stage) else "–"
        hours = format_small(sum(attempt.counted_s for attempt in of_stage) / 3600)
        manifest = artifacts[stage].manifest if stage in artifacts else None
        made = (manifest.fingerprint[:HASH_SHOWN], _format_date(manifest.ended)) if manifest else ("–", "–")
        table.add_row(stage, state, str(len(of_stage)), hours, usd, *made)
    return table


def _list_machines(artifacts: "Mapping[str, Artifact]") -> list[Text]:
    """Return a line for each machine with the stages that were made on it: in a table it would be too wide."""
    stages: dict[str, list[str]] = {}
    for stage, artifact in artifacts.items():
        machines = "; ".join(map(str, artifact.manifest.machines)) or "a machine that is not recorded"
        stages.setdefault(machines, []).append(stage)
    return [Text(f"made on {machines}: {', '.join(made)}", style="dim") for machines, made in stages.items()]


def format_event(event: Mapping[str, Any]) -> str:
    """Return one event as one plain line: time, stage, kind, then its other fields as `key=value`."""
    fields = " ".join(
        f"{key}={value:.5g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in event.items()
        if key not in ("time", "stage", "kind")
    )
    return printable(f"{event['time'][:19]} {event['stage']:<9} {event['kind']:<10} {fields}", one_line=True)
