"""Tables made from answers: shares with intervals, by tool, language, turn, style and depth, and confusions."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tuneline.stages.evaluate.answers import CONCURRENCY, Answer, expected_label
from tuneline.stages.evaluate.statistics import cluster_bootstrap, interval, quantile
from tuneline.stages.evaluate.targets import REFERENCE

ALLOWED_LOSS_POINTS = {"tuned-Q8_0": 1.0, "tuned-Q4_K_M": 5.0}
"""Percentage points of name accuracy a quantized model may lose against the 16-bit one."""

LATENCIES = (("median", 0.5), ("p95", 0.95))
"""Quantiles of an answer's time that the scoreboard has."""
Row = dict[str, Any]
AnswersByTarget = Mapping[tuple[str, str], Sequence[Answer]]
"""Answers by (suite, target), in the order of the items."""


def all_tables(answers: AnswersByTarget, confidence: float) -> dict[str, Any]:
    """Return the scoreboard, every table of `TABLES` and the quantization losses, from answers by (suite, target)."""
    board = [scoreboard_row(suite, target, rows, confidence) for (suite, target), rows in answers.items()]
    return {
        "confidence": confidence,
        "scoreboard": board,
        **{
            name: [row for (suite, target), rows in answers.items() for row in table(suite, target, rows, confidence)]
            for name, table in TABLES.items()
        },
        "loss_in_points": quantization_losses(board),
    }


def scoreboard_row(suite: str, target: str, answers: Sequence[Answer], confidence: float) -> Row:
    """Return one line of the scoreboard.

    `seconds` is the time spent answering with `CONCURRENCY` requests at a time.
    """
    n, tokens = len(answers), sum(answer.tokens for answer in answers)
    latencies = [answer.latency_s for answer in answers]
    seconds = sum(latencies) / CONCURRENCY
    return {
        "suite": suite,
        "target": target,
        "n": n,
        "clusters": len({a.phrasing for a in answers}),
        **_accuracy(answers, confidence),
        "json_valid": _rounded(sum(a.json_valid for a in answers) / n if n else 0.0),
        "faults": dict(Counter(a.fault.partition(":")[0] for a in answers if a.fault)),
        "errors": sum(a.error is not None for a in answers),
        "seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
        **{f"latency_{name}_s": round(quantile(latencies, share), 3) for name, share in LATENCIES if latencies},
    }


def by_handler(suite: str, target: str, answers: Sequence[Answer], confidence: float) -> list[Row]:
    """Return, for each expected tool, how often it was called, and with the right arguments."""
    rows = []
    for tool in sorted({expected_label(answer) for answer in answers}):
        of_tool = [answer for answer in answers if expected_label(answer) == tool]
        right, exact = sum(a.name_correct for a in of_tool), sum(a.exact for a in of_tool)
        rows.append({"suite": suite, "target": target, "tool": tool, "n": len(of_tool), "right": right, "exact": exact})
    return rows


def confusions(suite: str, target: str, answers: Sequence[Answer], confidence: float) -> list[Row]:
    """Return what was expected and what came instead, most frequent first."""
    wrong = Counter((expected_label(answer), answer.got) for answer in answers if not answer.name_correct)
    ranked = sorted(wrong.items(), key=lambda entry: (-entry[1], entry[0]))
    return [{"suite": suite, "target": target, "expected": e, "got": g, "count": count} for (e, g), count in ranked]


def by_language(suite: str, target: str, answers: Sequence[Answer], confidence: float) -> list[Row]:
    """Return accuracy for each language of the requests; empty where there is only one, or none is given."""
    return _grouped(suite, target, "language", [(a.language, a) for a in answers if a.language], confidence)


def by_turn(suite: str, target: str, answers: Sequence[Answer], confidence: float) -> list[Row]:
    """Return accuracy for each turn of the conversations, the first being 1; empty where all have one turn."""
    pairs = [(a.about.get("turn", 0) + 1, a) for a in answers]
    return _grouped(suite, target, "turn", pairs, confidence)


def by_depth(suite: str, target: str, answers: Sequence[Answer], confidence: float) -> list[Row]:
    """Return how often the hidden fact is found, for each length of text and depth of the fact."""
    hidden = [answer for answer in answers if "depth" in answer.about]
    rows = []
    for length, depth in sorted({(a.about["length"], a.about["depth"]) for a in hidden}):
        group = [a for a in hidden if (a.about["length"], a.about["depth"]) == (length, depth)]
        accuracy = _share("name", [a.name_correct for a in group], group, confidence)
        rows.append({"suite": suite, "target": target, "length": length, "depth": depth, "n": len(group), **accuracy})
    return rows


def by_reference(suite: str, target: str, answers: Sequence[Answer], confidence: float) -> list[Row]:
    """Return chrF and BLEU (sacrebleu's defaults) of the answers that have a reference, for each language."""
    with_reference = [answer for answer in answers if answer.expected.get("reference")]
    rows = []
    for language in sorted({answer.language or "" for answer in with_reference}):
        group = [answer for answer in with_reference if (answer.language or "") == language]
        rows.append({"suite": suite, "target": target, "language": language, "n": len(group), **_chrf_and_bleu(group)})
    return rows


def _chrf_and_bleu(answers: Sequence[Answer]) -> Row:
    from sacrebleu import corpus_bleu, corpus_chrf

    texts, references = [a.text for a in answers], [[a.expected["reference"] for a in answers]]
    chrf, bleu = corpus_chrf(texts, references), corpus_bleu(texts, references)
    return {"chrf": round(chrf.score, 2), "bleu": round(bleu.score, 2)}


def by_style(suite: str, target: str, answers: Sequence[Answer], confidence: float) -> list[Row]:
    """Return, for each style asked for, what the answers are classified as and their distance from its centroid."""
    styled = [answer for answer in answers if answer.measures.get("style")]
    rows = []
    for style in sorted({answer.measures["style"] for answer in styled}):
        group = [answer for answer in styled if answer.measures["style"] == style]
        distances = [answer.measures["distance"] for answer in group]
        low, high = cluster_bootstrap(distances, [a.phrasing for a in group], confidence)
        predicted = dict(Counter(answer.measures["told"] for answer in group))
        distance = {"distance": _rounded(sum(distances) / len(distances)), "distance_low": _rounded(low)}
        distance["distance_high"] = _rounded(high)
        rows.append({"suite": suite, "target": target, "style": style, "n": len(group), "told": predicted, **distance})
    return rows


Table = Callable[[str, str, Sequence[Answer], float], list[Row]]
TABLES: dict[str, Table] = {
    "handlers": by_handler,
    "confusions": confusions,
    "languages": by_language,
    "turns": by_turn,
    "curve": by_depth,
    "references": by_reference,
    "styles": by_style,
}
"""The tables made of each suite and target beside the scoreboard; a new one is a function here."""


def _grouped(suite: str, target: str, key: str, pairs: Sequence[tuple[Any, Answer]], confidence: float) -> list[Row]:
    values = sorted({value for value, _ in pairs})
    if len(values) < 2:
        return []
    rows = []
    for value in values:
        group = [answer for other, answer in pairs if other == value]
        rows.append({"suite": suite, "target": target, key: value, "n": len(group), **_accuracy(group, confidence)})
    return rows


def quantization_losses(scoreboard: Sequence[Row]) -> list[Row]:
    """Return the percentage points of name accuracy lost against 16 bit, for each target in `ALLOWED_LOSS_POINTS`."""
    references = {row["suite"]: row["name_accuracy"] for row in scoreboard if row["target"] == REFERENCE}
    rows = []
    for row in scoreboard:
        suite, target = row["suite"], row["target"]
        if target in ALLOWED_LOSS_POINTS and suite in references:
            points, allowed = 100 * (references[suite] - row["name_accuracy"]), ALLOWED_LOSS_POINTS[target]
            rows.append(
                {
                    "suite": suite,
                    "target": target,
                    "points": round(points, 2),
                    "allowed": allowed,
                    "within": points <= allowed + 1e-6,
                }
            )
    return rows


def _accuracy(answers: Sequence[Answer], confidence: float) -> Row:
    name = _share("name", [a.name_correct for a in answers], answers, confidence)
    return name | _share("exact", [a.exact for a in answers], answers, confidence)


def _share(name: str, outcomes: Sequence[bool], answers: Sequence[Answer], confidence: float) -> Row:
    n, right = len(outcomes), sum(outcomes)
    low, high = interval(outcomes, [a.phrasing for a in answers], confidence)
    return {
        f"{name}_accuracy": _rounded(right / n if n else 0.0),
        f"{name}_low": _rounded(low),
        f"{name}_high": _rounded(high),
    }


def _rounded(share: float) -> float:
    return round(share, 6)
