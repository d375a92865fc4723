"""What `tuneline traffic ls` shows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from tuneline.cli.views.tables import make_table
from tuneline.core.terminal import printable

if TYPE_CHECKING:
    from tuneline.endpoints.gateway.task_classifier import Quality
    from tuneline.endpoints.traffic.rollouts import Rollout


def render_rollouts(rollouts: "Sequence[Rollout]") -> Table:
    """Return a table with a row for each model's task, and its numbers by outcome."""
    table = make_table("model", "task", "step", "since", "requests", "verdict", "missing evidence, and the numbers")
    for rollout in rollouts:
        step = (
            f"{rollout.step.step}{' %' if rollout.step.step.isdecimal() else ''}{', held' if rollout.step.held else ''}"
        )
        since = f"{rollout.step.since:%Y-%m-%d %H:%M}" if rollout.step.number else "-"
        table.add_row(rollout.model, rollout.task, step, since, f"{rollout.requests:,}", rollout.verdict.action,
                      printable(_explain(rollout)))  # fmt: skip
    return table


def render_recognition(qualities: "Sequence[Quality]") -> Table:
    """Return a table with a row for each task: how many of its examples were recognised, and rightly."""
    table = make_table("task", "examples", "given a task", "rightly", "of those")
    for quality in qualities:
        share = f"{quality.right / quality.recognized:.1%}" if quality.recognized else "-"
        table.add_row(quality.task, f"{quality.examples:,}", f"{quality.recognized:,}", f"{quality.right:,}", share)
    return table


def _explain(rollout: "Rollout") -> str:
    lines = list(rollout.verdict.reasons)
    if more := rollout.verdict.missing_requests:
        lines.append(f"about {more:,} more requests; about {rollout.planned:,} were planned for this step")
    for name, numbers in rollout.verdict.numbers.items():
        lines.append(
            f"{name}: {numbers['difference']:+.3f}, from {numbers['lower']:+.3f} to {numbers['upper']:+.3f} "
            f"({numbers['requests']:,} requests, {numbers['units']:,} units on the smaller side)"
        )
    return "\n".join(lines)
