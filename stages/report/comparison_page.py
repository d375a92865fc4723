"""A comparison as one HTML page: accuracy, differences, and the items that changed sides."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuneline.core.files import write_atomic
from tuneline.core.formatting import format_percent
from tuneline.core.page_templates import load_template, mark_safe
from tuneline.stages.evaluate.verdicts.comparison import Change, Comparison
from tuneline.stages.evaluate.verdicts.task_verdicts import Verdict
from tuneline.stages.report.answer_text import format_answer, format_call
from tuneline.stages.report.charts import WhiskerRow, draw_whisker, draw_whisker_axis

CHANGES_SHOWN = 200
"""Items that changed sides, in each direction; the JSON has all."""
REACHES = (0.04, 0.1, 0.2, 0.4, 1.0)
"""Possible ends of the scale of differences; the smallest that holds all intervals is taken."""


def write_comparison(comparison: Comparison, file: Path) -> Path:
    """Write the page to `file` and return its path."""
    page = load_template(Path(__file__).with_name("comparison.html.jinja")).render(**_build_context(comparison))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, page)
    return file


def _build_context(comparison: Comparison) -> dict[str, Any]:
    verdicts = comparison.verdicts
    furthest = max((max(abs(task.low), abs(task.high)) for task in verdicts.tasks), default=1.0)
    reach = next(end for end in REACHES if end >= furthest)
    return {
        "a": verdicts.a,
        "b": verdicts.b,
        "headline": _write_headline(comparison),
        "measure": "right tool and exact arguments" if comparison.exact else "right answers",
        "confidence": verdicts.confidence,
        "tasks": [(task, _draw_shares(task)) for task in verdicts.tasks],
        "axis": mark_safe(draw_whisker_axis()),
        "differences": [_draw_difference(task, reach) for task in verdicts.tasks],
        "difference_axis": mark_safe(draw_whisker_axis((-reach, reach))),
        "gained": _list_changes([change for change in comparison.changes if change.gained]),
        "lost": _list_changes([change for change in comparison.changes if not change.gained]),
        "more": max(0, len(comparison.changes) - 2 * CHANGES_SHOWN),
        "left_out": comparison.left_out,
        "measured": dict.fromkeys(comparison.measured),
        "written": datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
    }


def _write_headline(comparison: Comparison) -> str:
    """Return the verdicts in a line, each with its tasks."""
    labels = {
        "better": "better",
        "worse": "worse",
        "not shown": "no difference shown",
        "too few": "too few items",
    }
    tasks_by_verdict = {
        verdict: [task.task for task in comparison.verdicts.tasks if task.verdict == verdict] for verdict in labels
    }
    return "; ".join(f"{labels[verdict]} on {', '.join(tasks)}" for verdict, tasks in tasks_by_verdict.items() if tasks)


def _draw_shares(task: Verdict) -> list[WhiskerRow]:
    drawing_a = mark_safe(draw_whisker(task.a, task.a_low, task.a_high, "base"))
    drawing_b = mark_safe(draw_whisker(task.b, task.b_low, task.b_high, "tuned"))
    return [
        WhiskerRow("A", drawing_a, format_percent(task.a), task.n),
        WhiskerRow("B", drawing_b, format_percent(task.b), task.n),
    ]


def _draw_difference(task: Verdict, reach: float) -> WhiskerRow:
    drawing = mark_safe(draw_whisker(task.difference, task.low, task.high, "tuned", 0.0, (-reach, reach)))
    return WhiskerRow(task.task, drawing, f"{100 * task.difference:+.1f}\u202f%", task.n)


def _list_changes(changes: Sequence[Change]) -> list[dict[str, str]]:
    return [
        {
            "task": change.task,
            "prompt": change.a.prompt,
            "expected": format_call(change.a.expected),
            "a": format_answer(change.a),
            "b": format_answer(change.b),
        }
        for change in changes[:CHANGES_SHOWN]
    ]
