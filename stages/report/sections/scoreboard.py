"""The scoreboard: accuracy with intervals for each suite, verdicts against the base, and accuracy tool by tool."""

import contextlib
from pathlib import Path

from tuneline.core.artifacts import Artifact
from tuneline.core.errors import NotFound
from tuneline.core.formatting import format_label, format_percent
from tuneline.core.page_templates import mark_safe
from tuneline.stages.evaluate.scoring.measure_names import RIGHT_TOOL, measure_name
from tuneline.stages.evaluate.verdicts.measurement import describe_measurement, describe_variation
from tuneline.stages.evaluate.verdicts.task_verdicts import VERDICTS, Verdicts, read_verdicts
from tuneline.stages.report.charts import WhiskerRow, draw_whisker, draw_whisker_axis
from tuneline.stages.report.evaluation_record import EvaluationRecord
from tuneline.stages.report.run_record import Row, RunRecord

CONFUSIONS_SHOWN = 12


def describe_scoreboard(run: RunRecord, evaluation: EvaluationRecord) -> Row:
    """Return the template variables of the sections from "Scoreboard" to "Confusions"."""
    manifest = run.manifests.get("evaluate")
    measured = describe_measurement(Artifact(run.path / "evaluate", manifest)) if manifest else ""
    return {
        "evaluated": run.metrics("evaluate"),
        "measured": measured,
        "variation": describe_variation(run.path, evaluation.main_target) if manifest else [],
        "confidence": run.confidence,
        "suites": [_describe_suite(run, suite, evaluation.main_target) for suite in evaluation.suites],
        "targets": evaluation.targets,
        "main_target": evaluation.main_target,
        "axis": mark_safe(draw_whisker_axis()),
        "verdicts": read_base_verdicts(run.path / "evaluate") if "evaluate" in run.manifests else None,
    }


def read_base_verdicts(evaluate_folder: Path) -> Verdicts | None:
    """Return the verdicts of the served model against the base, or None if none were recorded."""
    with contextlib.suppress(NotFound):
        return read_verdicts(evaluate_folder / VERDICTS)
    return None


def _describe_suite(run: RunRecord, suite: str, main_target: str) -> Row:
    metrics = run.metrics("evaluate")
    rows = [row for row in metrics["scoreboard"] if row["suite"] == suite]
    classifier = [row for row in metrics.get("classifier", []) if row["suite"] == suite]
    settings = _find_suite_settings(run, suite)
    floor = settings.get("floor")
    confusions = [r for r in metrics.get("confusions", []) if r["suite"] == suite and r["target"] == main_target]
    return {
        "name": suite,
        "measure": measure_name(metrics, suite),
        "has_calls": measure_name(metrics, suite) == RIGHT_TOOL,
        "floor": floor,
        "counts_items": settings.get("independent") == "items",
        "rows": rows,
        "classifier": classifier,
        "name_chart": [
            *(_draw_accuracy(row, "name", floor) for row in rows),
            *(_draw_classifier(row, floor) for row in classifier),
        ],
        "exact_chart": [_draw_accuracy(row, "exact") for row in rows],
        "handlers": _group_by_tool(metrics, suite),
        "confusions": confusions[:CONFUSIONS_SHOWN],
        "confusions_more": len(confusions[CONFUSIONS_SHOWN:]),
    }


def _find_suite_settings(run: RunRecord, suite: str) -> Row:
    """Return the suite as the recipe states it, or an empty dict."""
    suites: list[Row] = run.settings("evaluate").get("evaluate.suites", [])
    return next((settings for settings in suites if settings.get("name") == suite), {})


def _draw_accuracy(row: Row, measure: str, floor: float | None = None) -> WhiskerRow:
    """Return a model's accuracy by `measure`: `name` for the right tool, `exact` for the right arguments too."""
    value, css = row[f"{measure}_accuracy"], "base" if row["target"] == "base" else "tuned"
    drawing = mark_safe(draw_whisker(value, row[f"{measure}_low"], row[f"{measure}_high"], css, floor))
    return WhiskerRow(format_label(row["target"]), drawing, format_percent(value), row["n"])


def _draw_classifier(row: Row, floor: float | None) -> WhiskerRow:
    drawing = mark_safe(draw_whisker(row["accuracy"], row["low"], row["high"], "peer", floor))
    return WhiskerRow("TF-IDF classifier", drawing, format_percent(row["accuracy"]), row["n"])


def _group_by_tool(metrics: Row, suite: str) -> dict[str, dict[str, Row]]:
    """Return the rows of a suite by tool and target."""
    table: dict[str, dict[str, Row]] = {}
    for row in metrics.get("handlers", []):
        if row["suite"] == suite:
            table.setdefault(row["tool"], {})[row["target"]] = row
    return table
