"""A comparison as one HTML page: shares, differences, and the items that changed sides, side by side."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuneline.core import artifacts
from tuneline.core.formatting import call_text, percent, safe, template
from tuneline.stages.evaluate.clients.asking import Answer
from tuneline.stages.evaluate.verdicts.comparison import Change, Comparison
from tuneline.stages.evaluate.verdicts.task_verdicts import Verdict
from tuneline.stages.report.charts import whisker, whisker_axis

SHOWN = 200
"""Items that changed sides, in each direction; the JSON has all."""
REACHES = (0.04, 0.1, 0.2, 0.4, 1.0)
"""Ends of the scale of differences: the least that holds them all."""


def write_comparison(comparison: Comparison, file: Path) -> Path:
    """Writes the page and returns its path."""
    verdicts = comparison.verdicts
    needed = max((max(abs(t.low), abs(t.high)) for t in verdicts.tasks), default=1.0)
    reach = next(end for end in REACHES if end >= needed)
    page = template(Path(__file__).with_name("comparison.html.jinja")).render(
        a=verdicts.a,
        b=verdicts.b,
        headline=headline(comparison),
        measure="right tool and exact arguments" if comparison.exact else "right answers",
        confidence=verdicts.confidence,
        tasks=[(task, _shares(task)) for task in verdicts.tasks],
        axis=safe(whisker_axis()),
        differences=[_difference(task, reach) for task in verdicts.tasks],
        difference_axis=safe(whisker_axis((-reach, reach))),
        gained=_shown([c for c in comparison.changes if c.gained]),
        lost=_shown([c for c in comparison.changes if not c.gained]),
        more=max(0, len(comparison.changes) - 2 * SHOWN),
        left_out=comparison.left_out,
        written=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_atomic(file, page)
    return file


def headline(comparison: Comparison) -> str:
    """What was shown, in a line."""
    counts = {
        word: [task.task for task in comparison.verdicts.tasks if task.verdict == word]
        for word in ("better", "worse", "not shown", "too few")
    }
    names = {"not shown": "no difference shown", "too few": "too few items"}
    told = [f"{names.get(word, word)} on {', '.join(tasks)}" for word, tasks in counts.items() if tasks]
    return "; ".join(told)


def _shares(task: Verdict) -> list[tuple[str, Any, str, int]]:
    return [
        ("A", safe(whisker(task.a, task.a_low, task.a_high, "base")), percent(task.a), task.n),
        ("B", safe(whisker(task.b, task.b_low, task.b_high, "tuned")), percent(task.b), task.n),
    ]


def _difference(task: Verdict, reach: float) -> tuple[str, Any, str, int]:
    drawn = whisker(task.difference, task.low, task.high, "tuned", 0.0, (-reach, reach))
    return task.task, safe(drawn), f"{100 * task.difference:+.1f}\u202f%", task.n


def _shown(changes: list[Change]) -> list[dict[str, str]]:
    return [
        {
            "task": change.task,
            "prompt": change.a.prompt,
            "expected": call_text(change.a.expected),
            "a": _said(change.a),
            "b": _said(change.b),
        }
        for change in changes[:SHOWN]
    ]


def _said(answer: Answer) -> str:
    return "; ".join(map(call_text, answer.calls)) or f"no call: {answer.error or answer.text}"[:400]
