"""From answers to tables: shares with intervals, tool by tool, confusions."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from stages.evaluate.ask import CONCURRENCY, Answer, wanted
from stages.evaluate.statistics import interval

ALLOWED_LOSS_POINTS = {"tuned-Q8_0": 1.0, "tuned-Q4_K_M": 5.0}
"""Percentage points of name accuracy a quantized model may lose against the 16-bit one."""

Row = dict[str, Any]


def scoreboard_row(suite: str, target: str, answers: Sequence[Answer], confidence: float) -> Row:
    """One line of the scoreboard. `seconds` is the time spent answering, `CONCURRENCY` requests side by side."""
    n, tokens = len(answers), sum(answer.tokens for answer in answers)
    seconds = sum(answer.latency_s for answer in answers) / CONCURRENCY
    names, exact = [a.name_correct for a in answers], [a.exact for a in answers]
    return {
        "suite": suite,
        "target": target,
        "n": n,
        "clusters": len({a.carrier for a in answers}),
        **_share("name", names, answers, confidence),
        **_share("exact", exact, answers, confidence),
        "json_valid": _rounded(sum(a.json_valid for a in answers) / n if n else 0.0),
        "faults": dict(Counter(a.fault.partition(":")[0] for a in answers if a.fault)),
        "errors": sum(a.error is not None for a in answers),
        "seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
    }


def classifier_row(suite: str, right: Sequence[bool], carriers: Sequence[str], confidence: float) -> Row:
    """The classifier's line, in the same terms."""
    n, (low, high) = len(right), interval(right, carriers, confidence)
    accuracy = sum(right) / n if n else 0.0
    return {"suite": suite, "n": n, "accuracy": _rounded(accuracy), "low": _rounded(low), "high": _rounded(high)}


def by_handler(suite: str, target: str, answers: Sequence[Answer]) -> list[Row]:
    """For each tool that was asked for: how often it was named, and with the right arguments."""
    tools = sorted({wanted(answer) for answer in answers})
    rows = []
    for tool in tools:
        asked = [answer for answer in answers if wanted(answer) == tool]
        right, exact = sum(a.name_correct for a in asked), sum(a.exact for a in asked)
        rows.append({"suite": suite, "target": target, "tool": tool, "n": len(asked), "right": right, "exact": exact})
    return rows


def confusions(suite: str, target: str, answers: Sequence[Answer]) -> list[Row]:
    """What was named instead, most frequent first."""
    wrong = Counter((wanted(answer), answer.got) for answer in answers if not answer.name_correct)
    ranked = sorted(wrong.items(), key=lambda entry: (-entry[1], entry[0]))
    return [{"suite": suite, "target": target, "expected": e, "got": g, "count": count} for (e, g), count in ranked]


def losses(scoreboard: Sequence[Row], reference: str) -> list[Row]:
    """Percentage points of name accuracy lost against `reference`, for each quantized target it is promised for."""
    base = {row["suite"]: row["name_accuracy"] for row in scoreboard if row["target"] == reference}
    return [
        {
            "suite": row["suite"],
            "target": row["target"],
            "points": round(100 * (base[row["suite"]] - row["name_accuracy"]), 2),
            "allowed": ALLOWED_LOSS_POINTS[row["target"]],
            "within": 100 * (base[row["suite"]] - row["name_accuracy"]) <= ALLOWED_LOSS_POINTS[row["target"]] + 1e-6,
        }
        for row in scoreboard
        if row["target"] in ALLOWED_LOSS_POINTS and row["suite"] in base and row["target"] != reference
    ]


def _share(name: str, outcomes: Sequence[bool], answers: Sequence[Answer], confidence: float) -> Row:
    n, right = len(outcomes), sum(outcomes)
    low, high = interval(outcomes, [a.carrier for a in answers], confidence)
    return {
        f"{name}_accuracy": _rounded(right / n if n else 0.0),
        f"{name}_low": _rounded(low),
        f"{name}_high": _rounded(high),
    }


def _rounded(share: float) -> float:
    return round(share, 6)
