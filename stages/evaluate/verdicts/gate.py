"""The gate: whether what was measured suffices to go live; pass, fail or insufficient evidence, with reasons."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneline.configs.evaluation import Evaluate, Gate, Suite
from tuneline.configs.recipe import RECIPE, recipe_of
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import GateFailed
from tuneline.stages.evaluate.verdicts.reason import FAIL, INSUFFICIENT, PASS, Reason, outcome_of
from tuneline.stages.evaluate.verdicts.service_demands import judge_reasons, service_reasons
from tuneline.stages.evaluate.verdicts.suite_demands import Evidence, gate_reasons, suite_reasons
from tuneline.stages.evaluate.verdicts.task_verdicts import Verdicts, compare_tasks, pair_answers

Row = dict[str, Any]
NO_DEMANDS = "no demands"
WHY_NO_DEMANDS = "no suite has a floor, and the recipe has no evaluate.gate"


def decide_gate(settings: Evaluate, evidence: Evidence) -> tuple[Row, Verdicts]:
    """Return the gate as a metric, and the verdicts of the served model against the baseline."""
    proving = [s for s in settings.suites if s.proves and evidence.answers.get((s.name, evidence.served))]
    verdicts = _against_baseline(proving, settings, evidence)
    reasons = [
        reason
        for suite in proving
        if suite.floor is not None or settings.gate
        for reason in suite_reasons(suite, settings.confidence, evidence)
    ]
    if settings.gate:
        reasons += gate_reasons(settings.gate, proving, verdicts, evidence)
    return _gate_row(reasons, evidence), verdicts


def _against_baseline(suites: Sequence[Suite], settings: Evaluate, evidence: Evidence) -> Verdicts:
    baseline, served = evidence.baseline, evidence.served
    tasks = {
        suite.name: pair_answers(evidence.answers[suite.name, baseline], evidence.answers[suite.name, served])
        for suite in suites
        if baseline != served
    }
    return compare_tasks(baseline, served, tasks, settings.confidence)


def _gate_row(reasons: Sequence[Reason], evidence: Evidence) -> Row:
    outcome = outcome_of(reasons)
    return {
        "outcome": outcome,
        "passed": outcome == PASS,
        "target": evidence.served,
        "baseline": evidence.baseline,
        "demands": len(reasons),
        "reasons": [reason.text for reason in reasons] or [WHY_NO_DEMANDS],
        "unmet": [reason.text for reason in sorted(reasons, key=lambda r: r.met is None) if not reason.met],
        "open": [reason.text for reason in reasons if reason.met is None],
    }


def name_outcome(gate: Mapping[str, Any]) -> str:
    """Return a gate's outcome: pass, fail, insufficient evidence, or `no demands` if it has none."""
    outcome = str(gate.get("outcome") or (PASS if gate["passed"] else FAIL))
    return NO_DEMANDS if outcome == PASS and gate.get("demands") == 0 else outcome


def require_pass(evaluated: Artifact) -> None:
    """Check the gate of a finished evaluation.

    Raises:
        GateFailed: it did not pass; each reason is a line.
    """
    gate = gate_of_run(evaluated.path.parent, evaluated.metrics["gate"])
    if gate["outcome"] != PASS:
        raise GateFailed("\n".join([f"{gate['outcome']}:", *gate["unmet"]]))


def later_demands(settings: Evaluate) -> Row:
    """Return the demands on what is measured after the evaluation; they are kept with the gate that it decides."""
    return (settings.gate or Gate()).model_dump(include={"service", "judged"})


def _read_later_demands(run: Path, evaluated: Row) -> Gate:
    """Return the demands that an evaluation kept; of an older one, those of the run's recipe."""
    if "later" in evaluated:
        return Gate.model_validate(evaluated["later"])
    return (recipe_of(run).evaluate.gate if (run / RECIPE).exists() else None) or Gate()


def gate_of_run(run: Path, evaluated: Row) -> Row:
    """Return the gate that evaluation decided, with what was measured since: a load test and a judge's scores."""
    demands = _read_later_demands(run, evaluated)
    reasons = [*service_reasons(run, demands.service, evaluated), *judge_reasons(run, demands.judged, evaluated)]
    if not reasons:
        return evaluated
    later, earlier = outcome_of(reasons), evaluated.get("outcome", PASS if evaluated["passed"] else FAIL)
    outcome = FAIL if FAIL in (earlier, later) else PASS if earlier == later == PASS else INSUFFICIENT
    failed, open_reasons = ([reason.text for reason in reasons if reason.met is met] for met in (False, None))
    return evaluated | {
        "outcome": outcome,
        "passed": outcome == PASS,
        "demands": evaluated.get("demands", 0) + len(reasons),
        "reasons": [*evaluated["reasons"], *(reason.text for reason in reasons)],
        "unmet": [*failed, *evaluated.get("unmet", []), *open_reasons],
        "open": [*evaluated.get("open", []), *open_reasons],
    }
