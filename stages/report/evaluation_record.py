"""A run's evaluation as several sections of the report need it: suites, targets and answers."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneline.stages.evaluate.answers import Answer, read_answers
from tuneline.stages.report.run_record import Row, RunRecord

AnswersBySuite = Mapping[str, Sequence[Answer]]


@dataclass(frozen=True)
class EvaluationRecord:
    """What was asked of which model; all fields are empty for a run that is not evaluated."""

    scoreboard: Sequence[Row]
    suites: Sequence[str]
    targets: Sequence[str]
    """Names of the models: `base`, `tuned-F16`, …"""
    main_target: str
    """The target the report is about: what the run serves."""
    answers: Mapping[str, AnswersBySuite]
    """Answers by target and suite, in the order of the items; what has no answers file is left out."""

    @property
    def main_answers(self) -> AnswersBySuite:
        """Answers of the target the report is about."""
        return self.answers.get(self.main_target, {})


def read_evaluation(run: RunRecord) -> EvaluationRecord:
    """Return a run's evaluation."""
    metrics = run.metrics("evaluate")
    scoreboard: list[Row] = metrics.get("scoreboard", [])
    suites = list(dict.fromkeys(row["suite"] for row in scoreboard))
    targets = list(dict.fromkeys(row["target"] for row in scoreboard))
    main_target = _select_main_target(targets, metrics.get("gate", {}).get("target"))
    answers = _read_answers_by_target(run.path / "evaluate" / "answers", suites, targets)
    return EvaluationRecord(scoreboard, suites, targets, main_target, answers)


def _select_main_target(targets: Sequence[str], served: str | None) -> str:
    """Return the served target, or the 16-bit file in an evaluation whose gate does not name one."""
    tuned = [target for target in targets if target != "base"]
    if served in tuned:
        return str(served)
    return "tuned-F16" if "tuned-F16" in tuned else next(iter(tuned), "")


def _read_answers_by_target(
    folder: Path, suites: Sequence[str], targets: Sequence[str]
) -> dict[str, dict[str, list[Answer]]]:
    answers_by_target: dict[str, dict[str, list[Answer]]] = defaultdict(dict)
    for target in targets:
        for suite in suites:
            if answers := read_answers(folder / suite / f"{target}.jsonl"):
                answers_by_target[target][suite] = sorted(answers, key=lambda answer: answer.id)
    return dict(answers_by_target)
