"""From answers to tables: shares with intervals, tool by tool, confusions."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tuneline.stages.evaluate.clients.asking import CONCURRENCY, Answer, wanted
from tuneline.stages.evaluate.statistics import cluster_bootstrap, interval
from tuneline.stages.evaluate.suites.items import Item

ALLOWED_LOSS_POINTS = {"tuned-Q8_0": 1.0, "tuned-Q4_K_M": 5.0}
"""Percentage points of name accuracy a quantized model may lose against the 16-bit one."""

RECALL_AT = (1, 2, 4, 8, 16, 24, 32)
"""Tools shown, at which it is told how often the right ones are among them."""

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


def by_handler(suite: str, target: str, answers: Sequence[Answer], confidence: float) -> list[Row]:
    """For each tool that was asked for: how often it was named, and with the right arguments."""
    tools = sorted({wanted(answer) for answer in answers})
    rows = []
    for tool in tools:
        asked = [answer for answer in answers if wanted(answer) == tool]
        right, exact = sum(a.name_correct for a in asked), sum(a.exact for a in asked)
        rows.append({"suite": suite, "target": target, "tool": tool, "n": len(asked), "right": right, "exact": exact})
    return rows


def confusions(suite: str, target: str, answers: Sequence[Answer], confidence: float) -> list[Row]:
    """What was named instead, most frequent first."""
    wrong = Counter((wanted(answer), answer.got) for answer in answers if not answer.name_correct)
    ranked = sorted(wrong.items(), key=lambda entry: (-entry[1], entry[0]))
    return [{"suite": suite, "target": target, "expected": e, "got": g, "count": count} for (e, g), count in ranked]


def by_language(suite: str, target: str, answers: Sequence[Answer], confidence: float) -> list[Row]:
    """Right tool and exact arguments for each language asked in; nothing where there is one, or none is told."""
    return _grouped(suite, target, "language", [(a.language, a) for a in answers if a.language], confidence)


def by_turn(suite: str, target: str, answers: Sequence[Answer], confidence: float) -> list[Row]:
    """For each turn of conversations, the first being 1: what is held, and what is given up when pressed."""
    pairs = [(a.about.get("turn", 0) + 1, a) for a in answers]
    return _grouped(suite, target, "turn", pairs, confidence)


def curve(suite: str, target: str, answers: Sequence[Answer], confidence: float) -> list[Row]:
    """For each length of text and depth of the hidden fact: how often it is found."""
    found = [answer for answer in answers if "depth" in answer.about]
    places = sorted({(a.about["length"], a.about["depth"]) for a in found})
    rows = []
    for length, depth in places:
        here = [a for a in found if (a.about["length"], a.about["depth"]) == (length, depth)]
        shown = _share("name", [a.name_correct for a in here], here, confidence)
        rows.append({"suite": suite, "target": target, "length": length, "depth": depth, "n": len(here), **shown})
    return rows


def references(suite: str, target: str, answers: Sequence[Answer], confidence: float) -> list[Row]:
    """chrF and BLEU (sacrebleu, their usual settings) of all answers with a reference, for each language."""
    found = [answer for answer in answers if answer.expected.get("reference")]
    rows = []
    for language in sorted({answer.language or "" for answer in found}):
        here = [answer for answer in found if (answer.language or "") == language]
        rows.append({"suite": suite, "target": target, "language": language, "n": len(here), **_likeness(here)})
    return rows


def _likeness(answers: Sequence[Answer]) -> Row:
    from sacrebleu import corpus_bleu, corpus_chrf

    texts, wanted_texts = [a.text for a in answers], [[a.expected["reference"] for a in answers]]
    chrf, bleu = corpus_chrf(texts, wanted_texts), corpus_bleu(texts, wanted_texts)
    return {"chrf": round(chrf.score, 2), "bleu": round(bleu.score, 2)}


def by_style(suite: str, target: str, answers: Sequence[Answer], confidence: float) -> list[Row]:
    """For each style asked for: as what it is told, and how far from the style's centre, 1 being its own passages."""
    found = [answer for answer in answers if answer.measures.get("style")]
    rows = []
    for style in sorted({answer.measures["style"] for answer in found}):
        here = [answer for answer in found if answer.measures["style"] == style]
        away = [answer.measures["distance"] for answer in here]
        low, high = cluster_bootstrap(away, [a.carrier for a in here], confidence)
        told = dict(Counter(answer.measures["told"] for answer in here))
        distance = {"distance": _rounded(sum(away) / len(away)), "distance_low": _rounded(low)}
        distance["distance_high"] = _rounded(high)
        rows.append({"suite": suite, "target": target, "style": style, "n": len(here), "told": told, **distance})
    return rows


def recall(suite: str, items: Sequence[Item], ranked: Callable[[str], list[str]], confidence: float) -> list[Row]:
    """How often all tools an item wants are among the `k` likeliest."""
    asked = [item for item in items if item.tool or item.calls]
    worst = []
    for item in asked:
        order = ranked(item.text)
        worst.append(max(order.index(name) for name in ([item.tool] if item.tool else [c["name"] for c in item.calls])))
    rows = []
    for k in (k for k in RECALL_AT if asked and k <= len(order)):
        among = [place < k for place in worst]
        low, high = interval(among, [item.carrier for item in asked], confidence)
        share = _rounded(sum(among) / len(among))
        rows.append(
            {"suite": suite, "k": k, "n": len(asked), "recall": share, "low": _rounded(low), "high": _rounded(high)}
        )
    return rows


Table = Callable[[str, str, Sequence[Answer], float], list[Row]]
TABLES: dict[str, Table] = {
    "handlers": by_handler,
    "confusions": confusions,
    "languages": by_language,
    "turns": by_turn,
    "curve": curve,
    "references": references,
    "styles": by_style,
}
"""What the evaluation tells of each suite and target beside the scoreboard; a new one is a function here."""


def _grouped(suite: str, target: str, key: str, pairs: Sequence[tuple[Any, Answer]], confidence: float) -> list[Row]:
    values = sorted({value for value, _ in pairs})
    if len(values) < 2:
        return []
    rows = []
    for value in values:
        here = [answer for other, answer in pairs if other == value]
        name = _share("name", [a.name_correct for a in here], here, confidence)
        exact = _share("exact", [a.exact for a in here], here, confidence)
        rows.append({"suite": suite, "target": target, key: value, "n": len(here), **name, **exact})
    return rows


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
