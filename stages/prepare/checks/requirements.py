"""What data must reach: `require:` of a recipe against what was measured, and the file that says so."""

import operator
from collections.abc import Mapping
from typing import Any

from tuneline.configs.data import BOUND
from tuneline.stages.prepare.examination import Examination

COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq}
AT_MOST = ("format_errors", "errors", "warnings", "duplicates", "near_duplicates", "too_long", "longest_tokens")
"""A plain number is the most there may be of these, and the least of all others."""


def required(require: Mapping[Any, int | float | str], measures: Mapping[str, float]) -> list[dict[str, Any]]:
    """Each requirement with what was wanted and found, and whether it is met."""
    checked = []
    for name, wanted in require.items():
        bound = BOUND.fullmatch(wanted) if isinstance(wanted, str) else None
        sign = bound[1] if bound else "<=" if name in AT_MOST else ">="
        limit = float(bound[2] if bound else wanted)
        met = COMPARE[sign](measures[name], limit)
        checked.append({"measure": name, "wanted": f"{sign} {limit:g}", "found": measures[name], "met": met})
    return checked


def verdict(examined: Examination) -> dict[str, Any]:
    """The content of `validation.json`."""
    measures = examined.measures()
    wanted = required(dict(examined.data.require), measures)
    return {
        "passed": bool(measures["rows"]) and not examined.findings.count("error") and all(one["met"] for one in wanted),
        "required": wanted,
        "measures": measures,
        "tokens_counted": examined.renderer is not None,
        "sources": examined.composition(),
        "tools_called": dict(examined.called.most_common()),
        "styles": dict(examined.styles.most_common()),
        "problems": examined.findings.as_json(),
    }
