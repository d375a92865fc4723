"""The tab Runs: the table of `tuneline runs ls`, curves of a run while it trains, and two runs side by side."""

import asyncio
from typing import Any

from nicegui import ui

from tuneline.core import paths
from tuneline.core.errors import TunelineError
from tuneline.core.formatting import format_duration
from tuneline.stages.report import FILE as REPORT
from tuneline.stages.runs.summary import RunSummary
from tuneline.ui.charts import draw, line_chart
from tuneline.ui.elements import alert, fold, plain
from tuneline.ui.run_sources import CURVES, RunCurves, RunSources, StageSpent, list_spent

LIST_EVERY_S, CURVES_EVERY_S, REMOTE_EVERY_S = 5.0, 1.0, 10.0
MOST = 2
COLUMNS = ("run", "where", "state", "progress", "base", "gate", "promoted as", "last", "hours", "USD")
NARROW = ("run", "state", "progress", "gate")
"""Columns on a phone."""


class RunsTab:
    """All runs, and the one or two that are chosen."""

    def __init__(self, sources: RunSources) -> None:
        self._sources = sources
        self._runs: dict[str, RunSummary] = {}
        self._curves: dict[str, RunCurves] = {}
        with ui.element("div").classes("tabpage"):
            self._problem = alert("")
            self._empty = ui.label("No runs yet; start one with `tuneline demo`.").classes("empty")
            self._table = self._build_table()
            self._details = ui.element("div").classes("stack")
        self._charts: dict[str, ui.echart] = {}
        ui.timer(LIST_EVERY_S, self._refresh)
        ui.timer(CURVES_EVERY_S, lambda: self._refresh_curves("here"))
        ui.timer(REMOTE_EVERY_S, lambda: self._refresh_curves("modal"))

    def _build_table(self) -> ui.table:
        columns = [
            {
                "name": name,
                "label": name,
                "field": name,
                "sortable": True,
                "align": "right" if name in ("hours", "USD") else "left",
                "classes": "" if name in NARROW else "wideonly",
                "headerClasses": "" if name in NARROW else "wideonly",
            }
            for name in COLUMNS
        ]
        table = ui.table(rows=[], columns=columns, row_key="id", selection="multiple", on_select=self._choose)
        table.props('flat dense hide-selected-banner hide-bottom aria-label="Runs"').classes("table")
        return table

    async def _refresh(self) -> None:
        runs, problem = await asyncio.to_thread(self._sources.list_runs)
        self._runs = {f"{run.where}/{run.run}": run for run in runs}
        rows = [_to_row(identity, run) for identity, run in self._runs.items()]
        if rows != self._table.rows:
            self._table.rows = rows
            self._table.update()
        self._table.set_visibility(bool(rows))
        self._empty.set_visibility(not rows)
        self._problem.set_text(problem)
        self._problem.set_visibility(bool(problem))

    async def _choose(self) -> None:
        chosen = [row["id"] for row in self._table.selected][-MOST:]
        if len(self._table.selected) > MOST:
            self._table.selected = [row for row in self._table.selected if row["id"] in chosen]
        try:
            self._curves = {
                identity: self._curves.get(identity) or self._sources.open_curves(self._runs[identity])
                for identity in chosen
                if identity in self._runs
            }
            await self._show_details()
        except TunelineError as error:  # a folder whose name is no run's
            ui.notify(str(error), type="negative")

    async def _show_details(self) -> None:
        self._details.clear()
        self._charts.clear()
        chosen = [self._runs[identity] for identity in self._curves]
        spent = [await asyncio.to_thread(list_spent, run) for run in chosen]
        with self._details:
            with ui.element("div").classes("sides"):
                for run, stages in zip(chosen, spent, strict=True):
                    _show_run(run, stages)
            if chosen:
                with ui.element("div").classes("sides"):
                    for name in ("loss", "tokens_per_second", "memory_gb"):
                        title = "loss" if name == "loss" else CURVES[name]
                        self._charts[name] = line_chart(title, "step")
        await asyncio.gather(*(asyncio.to_thread(curves.refresh) for curves in self._curves.values()))
        self._draw()

    async def _refresh_curves(self, where: str) -> None:
        shown = [curves for identity, curves in self._curves.items() if identity.startswith(where)]
        if any(await asyncio.gather(*(asyncio.to_thread(curves.refresh) for curves in shown))):
            self._draw()

    def _draw(self) -> None:
        for name, chart in self._charts.items():
            series: dict[str, Any] = {}
            dashed: list[str] = []
            for identity, curves in self._curves.items():
                of_run = f"{self._runs[identity].run}: " if len(self._curves) > 1 else ""
                series[f"{of_run}{CURVES[name]}"] = curves.points.get(name, [])
                if name == "loss":
                    label = f"{of_run}{CURVES['validation_loss']}"
                    series[label] = curves.points.get("validation_loss", [])
                    dashed.append(label)
            chart.set_visibility(any(series.values()))
            draw(chart, series, dashed=dashed)


def _to_row(identity: str, run: RunSummary) -> dict[str, Any]:
    return {
        "id": identity,
        "run": run.run,
        "where": run.where,
        "state": run.state,
        "progress": _describe_progress(run),
        "base": run.base,
        "gate": run.gate or "–",
        "promoted as": ", ".join(run.promoted_as) or "–",
        "last": f"{run.at:%Y-%m-%d %H:%M}",
        "hours": f"{run.hours:.2f}",
        "USD": "–" if run.usd is None else f"{run.usd:.2f}",
    }


def _describe_progress(run: RunSummary) -> str:
    if run.state in ("finished", "refused by gate"):
        return "all stages"
    return f"up to {run.stage}" if run.state == "partial" else f"{run.stage} {run.progress}".strip()


def _show_run(run: RunSummary, stages: list[StageSpent]) -> None:
    """Show what a run is, what its stages took, and the way to its report."""
    with ui.element("section").classes("card").props(f'aria-label="Run {run.run}"'):
        with ui.element("div").classes("toolbar"):
            ui.label(run.run).classes("strong")
            ui.label(run.state).classes(f"state {run.state.replace(' ', '-')}")
            if run.where == "here" and (paths.run_folder(run.run) / REPORT).exists():
                ui.link("report", f"/reports/{run.run}", new_tab=True)
        if run.reason:
            plain(run.reason, "mono")
        if run.next_command:
            with fold("next command", is_open=True):
                plain(run.next_command, "mono")
        if stages:
            _show_stages(stages)


def _show_stages(stages: list[StageSpent]) -> None:
    rows = [
        {
            "stage": stage.stage,
            "state": stage.state,
            "took": format_duration(3600 * stage.hours) if stage.hours else "–",
            "at most": "–" if stage.hours_at_most is None else f"{stage.hours_at_most:g} h",
            "USD": "–" if stage.usd is None else f"{stage.usd:.2f}",
            "on Modal at most": "–" if stage.usd_at_most is None else f"{stage.usd_at_most:.2f} USD",
        }
        for stage in stages
    ]
    columns = [{"name": name, "label": name, "field": name, "align": "left"} for name in rows[0]]
    ui.table(rows=rows, columns=columns, row_key="stage").props("flat dense hide-bottom").classes("table")
