"""What the report tells of the answers themselves: verdicts, which tool was taken for which, sizes, failures."""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuneline.core.errors import NotFound
from tuneline.stages.evaluate.clients.asking import Answer, read_answers, wanted
from tuneline.stages.evaluate.load_testing.guidellm import Load
from tuneline.stages.evaluate.scoring.llm_judge import Judged
from tuneline.stages.evaluate.verdicts.gate import JUDGED, LOAD
from tuneline.stages.evaluate.verdicts.size_tradeoff import TOLERANCE_POINTS, Sizes, sizes
from tuneline.stages.evaluate.verdicts.task_verdicts import FILE as VERDICTS
from tuneline.stages.evaluate.verdicts.task_verdicts import Verdicts, read_verdicts

FAILURES_SHOWN = 20
ROWS_SHOWN = 24
"""Tools in the table of confusions, those with most errors."""
COLUMNS_SHOWN = 24
OTHER = "others"
HOW_CHOSEN = (
    "First what the base had right, then one of each confusion, the most frequent first, and another round of them "
    "while there is room; right tools with wrong arguments come last."
)
REFERENCE = "tuned-F16"

Row = dict[str, Any]
BySuite = Mapping[str, Sequence[Answer]]


@dataclass(frozen=True)
class Cell:
    """How often one tool was named where another was asked for."""

    count: int
    share: float
    """Of the requests for the tool."""
    right: bool


def answers_by_target(evaluated: Path, suites: Sequence[str], targets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Answers by target and suite, in the order of the items; what is gone is left out."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for target in targets:
        for suite in suites:
            if answers := read_answers(evaluated / "answers" / suite / f"{target}.jsonl"):
                found[target][suite] = sorted(answers, key=lambda answer: answer.id)
    return dict(found)


def verdicts(evaluated: Path) -> Verdicts | None:
    """The base against the model that is served; None where nobody judged."""
    with contextlib.suppress(NotFound):
        return read_verdicts(evaluated / VERDICTS)
    return None


def service(run: Path) -> Load | None:
    """What was measured under load, if it was."""
    with contextlib.suppress(OSError, ValidationError):
        return Load.model_validate_json((run / LOAD).read_text())
    return None


def judged(run: Path) -> Judged | None:
    """What a judge found, if one was asked."""
    with contextlib.suppress(OSError, ValidationError):
        return Judged.model_validate_json((run / JUDGED).read_text())
    return None


def reasons(gate: Row) -> list[tuple[str, str]]:
    """Each of the gate's reasons behind ✓ met, ✗ not met, or ? not to be told."""
    open_ones: list[str] = gate.get("open") or []
    told: list[str] = gate["reasons"]
    unmet: list[str] = gate.get("unmet") or ([] if gate["passed"] else told)
    return [("?" if r in open_ones else "✗" if r in unmet else "✓", r) for r in told]


def confusion_table(answers: BySuite) -> Row | None:
    """What was asked for (rows) against what was named (columns), over all suites; None where nothing was answered."""
    all_of_them = [a for found in answers.values() for a in found]
    asked, right = Counter(map(wanted, all_of_them)), Counter(wanted(a) for a in all_of_them if a.name_correct)
    taken = Counter((wanted(a), a.got.partition(":")[0]) for a in all_of_them if not a.name_correct)
    if not asked:
        return None
    wrong = {name: asked[name] - right[name] for name in asked}
    shown = sorted(sorted(asked, key=lambda name: (-wrong[name], name))[:ROWS_SHOWN])
    elsewhere = Counter(got for (name, got), n in taken.items() for _ in range(n) if name in shown and got not in shown)
    columns = [*shown, *(got for got, _ in elsewhere.most_common(max(4, COLUMNS_SHOWN - len(shown))))]
    cells = {name: _cells(name, columns, taken, asked[name], right[name]) for name in shown}
    return {
        "columns": [*columns, OTHER],
        "rows": [(name, asked[name], right[name], cells[name]) for name in shown],
        "left_out": len(asked) - len(shown),
        "left_out_wrong": sum(wrong[name] for name in asked if name not in shown),
        "n": sum(asked.values()),
    }


def _cells(
    name: str, columns: Sequence[str], taken: Mapping[tuple[str, str], int], asked: int, right: int
) -> list[Cell]:
    counts = [right if got == name else taken.get((name, got), 0) for got in columns]
    cells = [Cell(n, n / asked, got == name) for n, got in zip(counts, columns, strict=True)]
    rest = asked - sum(counts)
    return [*cells, Cell(rest, rest / asked, False)]


def size_rows(
    answers: Mapping[str, BySuite], files: Mapping[str, int], fidelity: Row, settings: Row, confidence: float
) -> Sizes | None:
    """Size against quality of the tuned files (bytes by target) over what can prove something; None if none did."""
    unproving = {one["name"] for one in settings.get("evaluate.suites", []) if not one.get("proves", True)}
    proving = {
        target: {suite: found for suite, found in by_suite.items() if suite not in unproving}
        for target, by_suite in answers.items()
        if target in files
    }
    found = sizes(
        {target: by_suite for target, by_suite in proving.items() if by_suite},
        files,
        REFERENCE,
        tolerance_points=settings.get("evaluate.tolerance_points", TOLERANCE_POINTS),
        confidence=confidence,
        fidelity=fidelity,
    )
    return found if found.rows else None


def failures(answers: BySuite, base: BySuite) -> Row:
    """The most telling wrong answers, chosen as `HOW_CHOSEN` says; and how many there are in all."""
    known = {(suite, a.id): a.name_correct for suite, found in base.items() for a in found}
    wrong = [(suite, a) for suite, found in answers.items() for a in found if not a.name_correct]
    inexact = [(suite, a) for suite, found in answers.items() for a in found if a.name_correct and not a.exact]
    lost = [(suite, a) for suite, a in wrong if known.get((suite, a.id))]
    never = [(suite, a) for suite, a in wrong if not known.get((suite, a.id))]
    often = Counter((wanted(a), a.got) for _, a in wrong)
    chosen = [*_in_turn(lost, often, "the base had it right; "), *_in_turn(never, often, "")]
    chosen += [{"suite": suite, "why": "right tool, wrong arguments", "answer": a} for suite, a in inexact]
    counts = {"wrong": len(wrong), "lost": len(lost), "inexact": len(inexact)}
    return {"shown": chosen[:FAILURES_SHOWN], "chosen": HOW_CHOSEN, **counts}


def _in_turn(found: Sequence[tuple[str, Answer]], often: Mapping[tuple[str, str], int], before: str) -> Iterator[Row]:
    """One of each confusion, the most frequent first; then the second of each."""
    kinds: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for suite, a in found:
        name, got = kind = wanted(a), a.got
        why = f"{before}{got} for {name}: {often[kind]} time{'s' if often[kind] > 1 else ''}"
        kinds[kind].append({"suite": suite, "why": why, "answer": a})
    ranked = sorted(kinds.items(), key=lambda entry: (-often[entry[0]], entry[0]))
    return (one for rounds in zip_longest(*(rows for _, rows in ranked)) for one in rounds if one)
