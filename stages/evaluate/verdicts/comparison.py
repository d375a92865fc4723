"""Two models on the items both answered: verdicts task by task, and the items that changed sides."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import RECIPE, recipe_of
from tuneline.core import artifacts, paths
from tuneline.core.errors import BadRequest, NotFound
from tuneline.stages.evaluate import served
from tuneline.stages.evaluate.clients.asking import Answer, read_answers, wanted
from tuneline.stages.evaluate.verdicts.task_verdicts import Paired, Verdicts, judge_tasks

Pairs = list[tuple[Answer, Answer]]


@dataclass(frozen=True)
class Side:
    """One model of one run."""

    run: str
    target: str
    answers: dict[str, list[Answer]]
    """By suite."""
    confidence: float

    @property
    def name(self) -> str:
        return f"{self.run}:{self.target}"


@dataclass(frozen=True)
class Change:
    """An item that one model has right and the other wrong."""

    task: str
    a: Answer
    b: Answer
    gained: bool
    """B has it right."""


@dataclass(frozen=True)
class Comparison:
    """B against A."""

    verdicts: Verdicts
    changes: tuple[Change, ...]
    left_out: dict[str, int]
    """Items by suite that only one of the two was asked."""
    exact: bool
    """Whether the arguments count too."""

    def as_json(self) -> dict[str, Any]:
        changes = [
            {"task": c.task, "prompt": c.a.prompt, "expected": c.a.expected, "gained": c.gained} | _both(c)
            for c in self.changes
        ]
        measure = "exact arguments" if self.exact else "right tool"
        return self.verdicts.model_dump() | {"measure": measure, "left_out": self.left_out, "changes": changes}


def compare(a: str, b: str, *, exact: bool = False, by_tool: bool = False) -> Comparison:
    """Compares two models, each a `RUN` (what it serves) or `RUN:TARGET`, as in `demo:base`.

    Items are the same if prompt and expected answer are; `by_tool` makes each tool of a suite a task of its own.

    Raises:
        NotFound: no such run, or it is not evaluated. BadRequest: no such target, or no item in common.
    """
    before, after = _side(a), _side(b)
    tasks: dict[str, Pairs] = {}
    left_out = {}
    for suite in [s for s in before.answers if s in after.answers]:
        pairs = list(_paired(before.answers[suite], after.answers[suite]))
        left_out[suite] = len(before.answers[suite]) + len(after.answers[suite]) - 2 * len(pairs)
        for pair in pairs:
            tasks.setdefault(f"{suite}/{wanted(pair[0])}" if by_tool else suite, []).append(pair)
    if not tasks:
        known = [", ".join(side.answers) or "no suite" for side in (before, after)]
        raise BadRequest(f"{before.name} answered {known[0]}, {after.name} answered {known[1]}: no item in common")
    judged = {task: _outcomes(pairs, exact) for task, pairs in tasks.items()}
    verdicts = judge_tasks(before.name, after.name, judged, min(before.confidence, after.confidence))
    changes = [
        Change(task, x, y, right)
        for task, pairs in tasks.items()
        for (x, y), wrong, right in zip(pairs, judged[task].a, judged[task].b, strict=True)
        if wrong != right
    ]
    return Comparison(verdicts, tuple(changes), {s: n for s, n in left_out.items() if n}, exact)


def sides(a: str, b: str) -> tuple[str, str, Pairs]:
    """The names of two models, and their answers to the items both were asked.

    Raises:
        NotFound, BadRequest: as `compare` does.
    """
    before, after = _side(a), _side(b)
    suites = [suite for suite in before.answers if suite in after.answers]
    pairs = [pair for suite in suites for pair in _paired(before.answers[suite], after.answers[suite])]
    if not pairs:
        raise BadRequest(f"{before.name} and {after.name} were asked no item in common")
    return before.name, after.name, pairs


def _side(word: str) -> Side:
    run, _, target = word.partition(":")
    folder = paths.run_folder(run)
    if not (folder / RECIPE).exists():
        raise NotFound(f"run {run!r}: not in {paths.runs()}; `tuneline runs ls` shows those that are")
    artifacts.open_artifact(folder / "evaluate")
    recipe = recipe_of(folder)
    target = target or served(recipe)
    files = {f.parent.name: f for f in sorted((folder / "evaluate/answers").glob("*/*.jsonl")) if f.stem == target}
    if not files:
        there = sorted({f.stem for f in (folder / "evaluate/answers").glob("*/*.jsonl")})
        raise BadRequest(f"{word}: {run} has answers of {', '.join(there) or 'nobody'}; write {run}:TARGET")
    return Side(run, target, {s: read_answers(file) for s, file in files.items()}, recipe.evaluate.confidence)


def _paired(a: list[Answer], b: list[Answer]) -> Iterator[tuple[Answer, Answer]]:
    """In the order of A's ids, which is the order of the items."""
    others = {_asked(answer): answer for answer in b}
    for answer in sorted(a, key=lambda one: one.id):
        if other := others.get(_asked(answer)):
            yield answer, other


def _asked(answer: Answer) -> tuple[str, str, str]:
    return answer.prompt, json.dumps(answer.expected, sort_keys=True), json.dumps(answer.about, sort_keys=True)


def _outcomes(pairs: Pairs, exact: bool) -> Paired:
    marks = [[one.exact if exact else one.name_correct for one in side] for side in zip(*pairs, strict=True)]
    return Paired(marks[0], marks[1], [a.carrier for a, _ in pairs])


def _both(change: Change) -> dict[str, Any]:
    return {side: {"calls": one.calls, "text": one.text} for side, one in (("a", change.a), ("b", change.b))}


def page_file(comparison: Comparison) -> Path:
    """Where its page lies unless told otherwise: in the folder of B's run."""
    a, b = (name.replace(":", "-") for name in (comparison.verdicts.a, comparison.verdicts.b))
    return paths.run_folder(comparison.verdicts.b.partition(":")[0]) / f"compare-{a}-{b}.html"
