"""Checks the `require:` section of a recipe against the measured data, and writes the verdict on the dataset."""

import operator
from collections.abc import Mapping
from typing import Any

from tuneline.configs.data import BOUND
from tuneline.stages.prepare.examination import Examination
from tuneline.stages.prepare.source_summary import summarize

COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq}
AT_MOST = ("format_errors", "errors", "warnings", "duplicates", "near_duplicates", "too_long", "longest_tokens")
"""Measures for which a plain number is an upper bound. For all others it is a lower bound."""

LARGE_LOSS = 0.2
"""From this share of lost rows on, the loss is said before anything else."""
LEAVES_OUT = ("too_long", "duplicate", "near_duplicate")
"""Kinds of warnings whose rows are left out, the last two with `duplicates: drop`."""


def check_requirements(require: Mapping[Any, int | float | str], measures: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return each requirement with its bound, the measured value, and whether it is met."""
    checked = []
    for name, value in require.items():
        bound = BOUND.fullmatch(value) if isinstance(value, str) else None
        sign = bound[1] if bound else "<=" if name in AT_MOST else ">="
        limit = float(bound[2] if bound else value)
        met = COMPARE[sign](measures[name], limit)
        checked.append({"measure": name, "wanted": f"{sign} {limit:g}", "found": measures[name], "met": met})
    return checked


def compute_verdict(examination: Examination) -> dict[str, Any]:
    """Return the content of `validation.json`, once the examination is finished."""
    measures, findings = compute_measures(examination), examination.findings
    requirements = check_requirements(dict(examination.data.require), measures)
    met = all(requirement["met"] for requirement in requirements)
    return {
        "passed": bool(measures["rows"]) and not findings.count("error") and met,
        "required": requirements,
        "measures": measures,
        "rows_read": examination.row_counts.read,
        "rows_kept": _count_kept(examination),
        "tokens_counted": examination.renderer is not None,
        "sources": summarize(examination.sources),
        "tools_called": dict(examination.called.most_common()),
        "styles": dict(examination.styles.most_common()),
        "problems": findings.as_json(),
    }


def describe_loss(verdict: Mapping[str, Any]) -> str | None:
    """Return how many rows are left out and why, if that is a large share of them; None otherwise."""
    read, kept = verdict["rows_read"], verdict["rows_kept"]
    if read - kept < LARGE_LOSS * read:
        return None
    counts = {kind: problems["count"] for kind, problems in verdict["problems"].items() if kind in LEAVES_OUT}
    counts |= {k: p["count"] for k, p in verdict["problems"].items() if p["severity"] == "error"}
    causes = [f"{count} × {kind.replace('_', ' ')}" for kind, count in sorted(counts.items(), key=lambda c: -c[1])]
    main = max(counts, key=lambda kind: counts[kind], default=None)
    remedy = f"; {verdict['problems'][main]['remedy'].removeprefix('it is left out; ')}" if main else ""
    return f"{read - kept:,} of {read:,} rows ({(read - kept) / read:.0%}) are left out: {', '.join(causes)}{remedy}"


def _count_kept(examination: Examination) -> int:
    """Return the rows that are trained or validated on; `duplicates: drop` leaves near-duplicates out at the end."""
    dropped = examination.findings.counts["near_duplicate"] if examination.data.duplicates == "drop" else 0
    return len(examination.lengths) - dropped


def compute_measures(examination: Examination) -> dict[str, float]:
    """Return the measures that `data.require` can name."""
    lengths, findings = examination.lengths, examination.findings
    rows, counts = len(lengths), findings.counts
    return {
        "rows": rows,
        "tokens": sum(lengths),
        "average_tokens": round(sum(lengths) / rows, 1) if rows else 0,
        "longest_tokens": max(lengths, default=0),
        "format_errors": findings.count("error", format_only=True),
        "errors": findings.count("error"),
        "warnings": findings.count("warning"),
        "handler_coverage": len(examination.called),
        "styles": len(examination.styles),
        "duplicates": counts["duplicate"],
        "near_duplicates": counts["near_duplicate"],
        "too_long": counts["too_long"],
    }
