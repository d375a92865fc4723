"""Runs: all of them, one in detail, and its events."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tuneline.cli.views.scoreboard import render_scoreboard
from tuneline.core.terminal import printable

if TYPE_CHECKING:
    from pathlib import Path

    from tuneline.core.artifacts import Artifact


def render_runs(states_by_run: Sequence[tuple[str, Mapping[str, str]]]) -> Table:
    """Return a table of at least one run, with the state of each stage."""
    table = Table("run", *states_by_run[0][1], box=None)
    for name, states in states_by_run:
        table.add_row(name, *states.values())
    return table


def render_run(folder: "Path", artifacts: "Mapping[str, Artifact]") -> RenderableType:
    """Return a run's finished stages with seconds and fingerprints, and its scoreboard if it was evaluated."""
    table = Table("stage", "seconds", "fingerprint", "made", box=None)
    for stage, artifact in artifacts.items():
        manifest = artifact.manifest
        table.add_row(stage, f"{manifest.seconds:.0f}", manifest.fingerprint, f"{manifest.ended:%Y-%m-%d %H:%M}")
    scoreboards = (
        [render_scoreboard(artifacts["evaluate"].metrics, artifacts["convert"].metrics)]
        if {"evaluate", "convert"} <= artifacts.keys()
        else []
    )
    return Group(Text.assemble((folder.name, "bold"), f"  {folder}"), table, *scoreboards)


def format_event(event: Mapping[str, Any]) -> str:
    """Return one event as one plain line: time, stage, kind, then its other fields as `key=value`."""
    fields = " ".join(
        f"{key}={value:.5g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in event.items()
        if key not in ("time", "stage", "kind")
    )
    return printable(f"{event['time'][:19]} {event['stage']:<9} {event['kind']:<10} {fields}", one_line=True)
