"""The head of the report: result, gate, state of the stages, and what was asked for."""

from typing import Any

from tuneline.core.formatting import format_label, format_percent
from tuneline.stages.evaluate.scoring.measure_names import measure_name
from tuneline.stages.evaluate.verdicts.gate import NO_DEMANDS, gate_of_run, name_outcome
from tuneline.stages.report.evaluation_record import EvaluationRecord
from tuneline.stages.report.run_record import STAGES, Row, RunRecord

TRAIN_KEYS = ("method", "rank", "alpha", "learning_rate", "schedule", "epochs", "max_steps", "batch_rows", "seed")
SHOWN_SETTINGS = {
    "train": ("base", *(f"train.{key}" for key in TRAIN_KEYS)),
    "convert": ("convert.types",),
}
"""Settings shown at the head of the page, by stage; all of them are at its end."""


def describe_run(run: RunRecord, evaluation: EvaluationRecord) -> Row:
    """Return the template variables `stage_states`, `problems`, `headline`, `shown_settings` and those of the gate."""
    recorded_gate = run.metrics("evaluate").get("gate")
    gate = gate_of_run(run.path, recorded_gate) if recorded_gate else None
    return {
        "stage_states": _list_stage_states(run),
        "problems": list(run.problems.values()),
        "headline": _write_headline(run, evaluation),
        "shown_settings": _list_settings(run),
        "gate": gate,
        "outcome": name_outcome(gate) if gate else "",
        "gate_reasons": _mark_reasons(gate) if gate else [],
    }


def _list_stage_states(run: RunRecord) -> list[tuple[str, str]]:
    states = {stage: "finished" for stage in run.manifests} | {stage: "under way" for stage in run.draft_settings}
    states |= dict.fromkeys(run.problems, "not reliable")
    return [(stage, states.get(stage, "not started")) for stage in STAGES]


def _write_headline(run: RunRecord, evaluation: EvaluationRecord) -> tuple[str, str]:
    """Return the result on the first suite in a sentence, and the line under it with interval and other models."""
    suite = next(iter(evaluation.suites), None)
    rows = {row["target"]: row for row in evaluation.scoreboard if row["suite"] == suite}
    if suite is None and "evaluate" in run.manifests:
        return "Nothing was asked", "The recipe names no suite (evaluate.suites)."
    if suite is None or evaluation.main_target not in rows:
        unfinished = next(
            (f"{stage} is {state}" for stage, state in _list_stage_states(run) if state != "finished"), ""
        )
        return "Not evaluated yet", f"So far: {unfinished}."
    row, base = rows[evaluation.main_target], rows.get("base")
    before = f"{format_percent(base['name_accuracy'])} → " if base else ""
    accuracy = format_percent(row["name_accuracy"])
    measure = measure_name(run.metrics("evaluate"), suite).capitalize()
    sentence = f"{measure} on {format_label(suite)}: {before}{accuracy} (n = {row['n']})"
    return sentence, _write_interval(run, rows, evaluation.main_target) + _write_classifier(run, suite)


def _write_interval(run: RunRecord, rows: dict[str, Row], main_target: str) -> str:
    row = rows[main_target]
    low, high = format_percent(row["name_low"]), format_percent(row["name_high"])
    interval = f"{100 * run.confidence:g}\u202f% interval {low} to {high} for {format_label(main_target)}."
    others = [
        f"{target.removeprefix('tuned-')} {format_percent(other['name_accuracy'])}"
        for target, other in rows.items()
        if target not in ("base", main_target)
    ]
    return interval + (f" Other files: {', '.join(others)}." if others else "")


def _write_classifier(run: RunRecord, suite: str) -> str:
    rows = [row for row in run.metrics("evaluate").get("classifier", []) if row["suite"] == suite]
    return f" A TF-IDF classifier: {format_percent(rows[0]['accuracy'])}." if rows else ""


def _list_settings(run: RunRecord) -> list[tuple[str, Any]]:
    shown = [(key, run.settings(stage).get(key)) for stage, keys in SHOWN_SETTINGS.items() for key in keys]
    facts = [(format_label(key.split(".")[-1]), _format_setting(value)) for key, value in shown if value is not None]
    if run.base_manifest:
        facts.insert(0, ("revision", run.base_manifest.made_from.settings.get("revision", "")))
    rows = [str(s["rows"]) for s in run.settings("prepare").get("data.sources", []) if s.get("rows")]
    return [*facts, ("rows requested", " + ".join(rows))] if rows else facts


def _format_setting(value: Any) -> str:
    """Return a setting without the brackets of a list or a float's trailing digits."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _mark_reasons(gate: Row) -> list[tuple[str, str]]:
    """Return each of the gate's reasons with its mark: ✓ met, ✗ not met, ? undecided for lack of items, – no demand."""
    if name_outcome(gate) == NO_DEMANDS:
        return [("–", reason) for reason in gate["reasons"]]
    undecided: list[str] = gate.get("open") or []
    reasons: list[str] = gate["reasons"]
    unmet: list[str] = gate.get("unmet") or ([] if gate["passed"] else reasons)
    return [("?" if reason in undecided else "✗" if reason in unmet else "✓", reason) for reason in reasons]
