"""The runs of a sweep: what they will cost, and how they compare."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tuneline.cli.views.comparison import COLOURS
from tuneline.core.formatting import format_label

if TYPE_CHECKING:
    from tuneline.configs.sweep import SweepRun
    from tuneline.stages.evaluate.verdicts.sweep_table import SweepTable


def render_planned_runs(runs: "Sequence[SweepRun]") -> Group:
    """Return the runs with their settings, the stages still to do, and what each costs at most on Modal."""
    from tuneline.core import paths
    from tuneline.core.spending import read_usd_per_hour
    from tuneline.stages.line import describe_stages, stages_up_to
    from tuneline.stages.plan.stage_bounds import RunState, bound_stages

    stages, total, lines = stages_up_to("evaluate"), 0.0, []
    for run in runs:
        states = describe_stages(run.recipe, paths.run_folder(run.name), stages)
        open_stages = [stage for stage, state in states.items() if state != "finished"]
        usd = sum(bound.usd_at_most for bound in bound_stages(run.recipe, stages, RunState(states)))
        total += usd
        lines.append(f"  {run.name}: {', '.join(run.settings)}; to do: {', '.join(open_stages) or 'nothing'}")
    price = read_usd_per_hour()
    cost = "at no cost" if price is None else f"at {price:g} USD per hour"
    head = Text(
        f"{len(runs)} runs on this machine, one after the other, {cost}; on Modal {total:.2f} USD at most", "bold"
    )
    return Group(head, *(Text(line) for line in lines))


def render_sweep(table: "SweepTable", settings: Mapping[str, Sequence[str]]) -> Group:
    """Return each run with its validation loss, and for each suite its share and the difference from the first run."""
    first = table.runs[0] if table.runs else ""
    parts: list[Text | Table] = [_render_losses(table, settings)]
    for suite in table.suites:
        rows = [(run, verdict) for (run, of_suite), verdict in table.verdicts.items() if of_suite == suite]
        grid = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        grid.add_column("run", overflow="fold")
        for column in ("right", f"difference ({table.confidence:.0%} interval)", "verdict"):
            grid.add_column(column, no_wrap=column != "verdict")
        grid.add_row(first, f"{rows[0][1].a:.1%}", "", "")
        for run, verdict in rows:
            difference = f"{100 * verdict.difference:+.1f} ({100 * verdict.low:+.1f} to {100 * verdict.high:+.1f})"
            summary = Text(verdict.summary, style=COLOURS.get(verdict.verdict, ""))
            grid.add_row(run, f"{verdict.b:.1%}", difference, summary)
        parts += [Text(f"\n{format_label(suite)}, {rows[0][1].n} items, against {first}", "bold"), grid]
    note = (
        "Paired on the same items; the verdicts' p is corrected over all runs and suites (Holm). The best of many runs "
        "looks better than it is: measure it again with another train.seed."
    )
    return Group(*parts, Text(f"\n{note}", "dim"))


def _render_losses(table: "SweepTable", settings: Mapping[str, Sequence[str]]) -> Table:
    losses = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    losses.add_column("run", overflow="fold")
    losses.add_column("settings", overflow="fold")
    losses.add_column("validation loss", no_wrap=True, justify="right")
    for run in table.runs:
        loss = table.validation_losses[run]
        losses.add_row(run, ", ".join(settings[run]), "–" if loss is None else f"{loss:.4f}")
    return losses
