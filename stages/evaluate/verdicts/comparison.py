"""Two models on the items both answered: verdicts task by task, and the items on which they differ."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import RECIPE, recipe_of
from tuneline.core import paths
from tuneline.core.errors import BadRequest, NotFound
from tuneline.stages.evaluate.answers import Answer, expected_label, read_answers
from tuneline.stages.evaluate.targets import evaluated_target
from tuneline.stages.evaluate.verdicts.measurement import describe_measurement
from tuneline.stages.evaluate.verdicts.task_verdicts import PairedOutcomes, Verdicts, compare_tasks
from tuneline.stages.run_artifacts import open_stage

Pairs = list[tuple[Answer, Answer]]
"""The answers of A and B to the same items."""


@dataclass(frozen=True)
class Side:
    """One model of one run, with its answers."""

    run: str
    target: str
    answers: dict[str, list[Answer]]
    """By suite."""
    confidence: float
    measured: str
    """When, where and by which engines."""

    @property
    def name(self) -> str:
        return f"{self.run}:{self.target}"


@dataclass(frozen=True)
class Change:
    """An item on which one model is right and the other wrong."""

    task: str
    a: Answer
    b: Answer
    gained: bool
    """Whether B is the one that is right."""


@dataclass(frozen=True)
class Comparison:
    """B against A."""

    verdicts: Verdicts
    changes: tuple[Change, ...]
    left_out: dict[str, int]
    """Items by suite that only one of the two was asked."""
    exact: bool
    """Whether the arguments count too."""
    measured: tuple[str, str]
    """When, where and by which engines A and B were."""

    def as_json(self) -> dict[str, Any]:
        changes = [
            {"task": c.task, "prompt": c.a.prompt, "expected": c.a.expected, "gained": c.gained} | _both_answers(c)
            for c in self.changes
        ]
        measure = "exact arguments" if self.exact else "right tool"
        return self.verdicts.model_dump() | {
            "measure": measure,
            "measured": self.measured,
            "left_out": self.left_out,
            "changes": changes,
        }


def compare_models(a: str, b: str, *, exact: bool = False, by_tool: bool = False) -> Comparison:
    """Compare two models, each a `RUN` (its served target) or `RUN:TARGET`, as in `demo:base`.

    Items are the same if prompt and expected answer are; `by_tool` makes each tool of a suite a task of its own.

    Raises:
        NotFound: no such run, or it is not evaluated.
        BadRequest: no such target, or no item in common.
    """
    before, after = _side(a), _side(b)
    tasks: dict[str, Pairs] = {}
    left_out = {}
    for suite in [s for s in before.answers if s in after.answers]:
        pairs = list(_same_items(before.answers[suite], after.answers[suite]))
        left_out[suite] = len(before.answers[suite]) + len(after.answers[suite]) - 2 * len(pairs)
        for pair in pairs:
            tasks.setdefault(f"{suite}/{expected_label(pair[0])}" if by_tool else suite, []).append(pair)
    if not tasks:
        suites = [", ".join(side.answers) or "no suite" for side in (before, after)]
        raise BadRequest(f"{before.name} answered {suites[0]}, {after.name} answered {suites[1]}: no item in common")
    outcomes = {task: _outcomes(pairs, exact) for task, pairs in tasks.items()}
    verdicts = compare_tasks(before.name, after.name, outcomes, min(before.confidence, after.confidence))
    changes = [
        Change(task, answer_a, answer_b, right_b)
        for task, pairs in tasks.items()
        for (answer_a, answer_b), right_a, right_b in zip(pairs, outcomes[task].a, outcomes[task].b, strict=True)
        if right_a != right_b
    ]
    left_out = {suite: count for suite, count in left_out.items() if count}
    return Comparison(verdicts, tuple(changes), left_out, exact, (before.measured, after.measured))


def paired_answers(a: str, b: str) -> tuple[str, str, Pairs]:
    """Return the names of two models, and their answers to the items both were asked.

    Raises:
        NotFound, BadRequest: as `compare_models` does.
    """
    before, after = _side(a), _side(b)
    suites = [suite for suite in before.answers if suite in after.answers]
    pairs = [pair for suite in suites for pair in _same_items(before.answers[suite], after.answers[suite])]
    if not pairs:
        raise BadRequest(f"{before.name} and {after.name} have no item in common")
    return before.name, after.name, pairs


def pair_suites(a: str, b: str) -> tuple[dict[str, PairedOutcomes], float]:
    """Return which items of each suite the two models are right on, and the confidence of their recipes.

    Raises:
        NotFound, BadRequest: as `compare_models` does.
    """
    before, after = _side(a), _side(b)
    pairs = {
        suite: list(_same_items(before.answers[suite], after.answers[suite]))
        for suite in before.answers
        if suite in after.answers
    }
    outcomes = {suite: _outcomes(suite_pairs, exact=False) for suite, suite_pairs in pairs.items() if suite_pairs}
    return outcomes, min(before.confidence, after.confidence)


def _side(name: str) -> Side:
    run, _, target = name.partition(":")
    folder = paths.run_folder(run)
    if not (folder / RECIPE).exists():
        raise NotFound(f"run {run!r}: not in {paths.runs()}; `tuneline runs ls` lists the runs")
    evaluated, recipe = open_stage(folder, "evaluate"), recipe_of(folder)
    target = target or evaluated_target(evaluated, recipe)
    all_files = sorted((folder / "evaluate/answers").glob("*/*.jsonl"))
    files = {file.parent.name: file for file in all_files if file.stem == target}
    if not files:
        targets = ", ".join(sorted({file.stem for file in all_files})) or "none"
        raise BadRequest(f"{name}: {run} has answers of {targets}; write {run}:TARGET")
    answers = {suite: read_answers(file) for suite, file in files.items()}
    return Side(run, target, answers, recipe.evaluate.confidence, describe_measurement(evaluated))


def _same_items(a: list[Answer], b: list[Answer]) -> Iterator[tuple[Answer, Answer]]:
    """Yield the answers to items in both lists, in the order of A's ids, which is the order of the items."""
    by_item = {_item_key(answer): answer for answer in b}
    for answer in sorted(a, key=lambda answer: answer.id):
        if other := by_item.get(_item_key(answer)):
            yield answer, other


def _item_key(answer: Answer) -> tuple[str, str, str]:
    return answer.prompt, json.dumps(answer.expected, sort_keys=True), json.dumps(answer.about, sort_keys=True)


def _outcomes(pairs: Pairs, exact: bool) -> PairedOutcomes:
    a, b = [[answer.exact if exact else answer.name_correct for answer in side] for side in zip(*pairs, strict=True)]
    return PairedOutcomes(a, b, [answer.phrasing for answer, _ in pairs])


def _both_answers(change: Change) -> dict[str, Any]:
    return {side: {"calls": answer.calls, "text": answer.text} for side, answer in (("a", change.a), ("b", change.b))}


def page_file(comparison: Comparison) -> Path:
    """Return the default path of the comparison's page, in the folder of B's run."""
    a, b = (name.replace(":", "-") for name in (comparison.verdicts.a, comparison.verdicts.b))
    return paths.run_folder(comparison.verdicts.b.partition(":")[0]) / f"compare-{a}-{b}.html"
