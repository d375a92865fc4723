"""The gate: whether what was measured suffices to go live; pass, fail or insufficient evidence, a line a reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.configs.evaluation import Evaluate, Gate, Service, Suite
from tuneline.configs.recipe import RECIPE, recipe_of
from tuneline.core import artifacts
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import GateFailed
from tuneline.stages.evaluate import statistics
from tuneline.stages.evaluate.clients.asking import NO_TOOL, Answer, wanted
from tuneline.stages.evaluate.verdicts.task_verdicts import MATTERS, Paired, Verdict, Verdicts, judge_tasks

if TYPE_CHECKING:
    from tuneline.stages.evaluate.load_testing.guidellm import Load

LOAD, JUDGED = "load.json", "judge.json"
"""In a run's folder: what was measured after its evaluation."""

TAIL, CONFIDENCE = 0.95, 0.95
"""Of service targets: which quantile, and how sure its bound is."""

PASS, FAIL, INSUFFICIENT = "pass", "fail", "insufficient evidence"

SEEN_AT_MOST = 0.01
"""Share of a suite's items that may stand in training, word for word or by their sentence frame."""

NEVER_RIGHT_OF = 8
"""A tool asked for this often and never named is not known: even one that is right every third time hardly does so."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """What the gate weighs, beside the recipe's demands."""

    answers: Mapping[tuple[str, str], Sequence[Answer]]
    """By (suite, target), in the order of the items."""
    served: str
    baseline: str
    seen: Mapping[str, int] = field(default_factory=dict)
    """Items of each suite that stand in training."""
    catalogue: Sequence[str] = ()
    """Names of the tools the model has."""
    validation_loss: float | None = None
    """In nats per learned token."""
    perplexity: float | None = None
    """Of the served file, over all tokens of the run's own held-out rows."""


@dataclass(frozen=True)
class Reason:
    """One demand: met, not met, or (None) not to be told from what there is."""

    met: bool | None
    text: str


def judge(settings: Evaluate, evidence: Evidence) -> tuple[Row, Verdicts]:
    """The gate as a metric, and the verdicts of the served model against the baseline."""
    proving = [s for s in settings.suites if s.proves and evidence.answers.get((s.name, evidence.served))]
    verdicts = _against_baseline(proving, settings, evidence)
    reasons = [
        reason
        for suite in proving
        if suite.floor is not None or settings.gate
        for reason in _of_suite(suite, settings, evidence)
    ]
    if settings.gate:
        reasons += _of_gate(settings.gate, proving, verdicts, evidence)
    return _told(reasons, evidence), verdicts


def leave_unless_passed(evaluated: Artifact) -> None:
    """Reads the gate of a finished evaluation.

    Raises:
        GateFailed: it says no; each reason is a line.
    """
    gate = of_run(evaluated.path.parent, evaluated.metrics["gate"])
    if gate["outcome"] != PASS:
        raise GateFailed("\n".join([f"{gate['outcome']}:", *gate["unmet"]]))


def of_run(run: Path, told: Row) -> Row:
    """The gate as evaluation told it, with what was measured since: service under load, and a judge's scores."""
    gate = recipe_of(run).evaluate.gate if (run / RECIPE).exists() else None
    reasons = [*_service(run, gate.service), *_judged(run, gate.judged)] if gate else []
    if not reasons:
        return told
    met = [reason.met for reason in reasons]
    earlier = told.get("outcome", PASS if told["passed"] else FAIL)
    outcome = FAIL if earlier == FAIL or False in met else INSUFFICIENT if earlier != PASS or None in met else PASS
    texts = {known: [r.text for r in reasons if r.met is known] for known in (True, False, None)}
    return told | {
        "outcome": outcome,
        "passed": outcome == PASS,
        "demands": told.get("demands", 0) + len(reasons),
        "reasons": [*told["reasons"], *(reason.text for reason in reasons)],
        "unmet": [*texts[False], *told.get("unmet", []), *texts[None]],
        "open": [*told.get("open", []), *texts[None]],
    }


def _service(run: Path, wanted: Service | None) -> list[Reason]:
    if wanted is None:
        return []
    from tuneline.stages.evaluate.load_testing.guidellm import Load

    if not (run / LOAD).exists():
        return [Reason(None, f"service: not measured; `tuneline load {run.name}` does")]
    found = Load.model_validate_json((run / LOAD).read_text())
    if found.convert != _fingerprint(run / "convert"):
        return [Reason(None, f"service: measured on other files; `tuneline load {run.name}` measures these")]
    where = f"of {found.requests} requests at {found.rate:g} a second"
    failed = found.errors / found.requests
    reasons: list[Reason | None] = [
        Reason(failed <= wanted.errors, f"service: {failed:.1%} {where} failed, at most {wanted.errors:.1%} demanded"),
        _tail("p95 latency", found.latencies, found, wanted.p95_latency_s, where),
        _tail("p95 time to first token", found.first_tokens, found, wanted.p95_first_token_s, where),
        _most("memory of the server, GB", found.memory_gb, wanted.memory_gb),
        _most(f"USD for 1,000 queries on {found.hardware}", found.usd_per_1000_queries, wanted.usd_per_1000_queries),
    ]
    if wanted.requests_per_second is not None:
        reached = found.requests_per_second
        line = f"service: {reached:.2f} requests a second answered, {wanted.requests_per_second:g} demanded"
        reasons.append(Reason(reached >= wanted.requests_per_second, line))
    return [reason for reason in reasons if reason]


def _tail(name: str, values: Sequence[float], found: "Load", most: float | None, where: str) -> Reason | None:
    """By the one-sided bound of the quantile: an order statistic, so that nothing about the shape is assumed."""
    if most is None:
        return None
    every = [*values, *[inf] * found.errors]
    quantile, bound = statistics.quantile(every, TAIL), statistics.quantile_bound(every, TAIL, CONFIDENCE)
    if bound is None:
        line = f"service: {name} {quantile:.3f} s {where}: too few to bound it, 59 at least; at most {most:g} demanded"
        return Reason(False if quantile > most else None, line)
    line = f"service: {name} {quantile:.3f} s {where}, upper bound {bound:.3f} s, at most {most:g} demanded"
    return Reason(False if quantile > most else True if bound <= most else None, line)


def _most(name: str, found: float | None, most: float | None) -> Reason | None:
    if most is None:
        return None
    if found is None:
        return Reason(None, f"service: {name}: not measured, at most {most:g} demanded")
    return Reason(found <= most, f"service: {name}: {found:.3g}, at most {most:g} demanded")


def _judged(run: Path, floor: float | None) -> list[Reason]:
    if floor is None:
        return []
    from tuneline.stages.evaluate.scoring.llm_judge import ENOUGH_LABELS, Judged

    if not (run / JUDGED).exists():
        return [Reason(None, f"judge: nothing was judged; `tuneline judge {run.name}` does")]
    found = Judged.model_validate_json((run / JUDGED).read_text())
    if found.evaluate != _fingerprint(run / "evaluate"):
        return [Reason(None, f"judge: other answers were judged; `tuneline judge {run.name}` judges these")]
    line = f"judge: {found.told}"
    if found.labels < ENOUGH_LABELS:
        return [Reason(None, f"{line}: does not count with fewer than {ENOUGH_LABELS} labels")]
    return [Reason(found.bound >= floor, f"{line}; {floor:.1%} demanded of the lower bound")]


def _fingerprint(stage: Path) -> str | None:
    return artifacts.open_artifact(stage).manifest.fingerprint if artifacts.finished(stage) else None


def _told(reasons: Sequence[Reason], evidence: Evidence) -> Row:
    met = [reason.met for reason in reasons]
    outcome = FAIL if False in met else INSUFFICIENT if None in met else PASS
    return {
        "outcome": outcome,
        "passed": outcome == PASS,
        "target": evidence.served,
        "baseline": evidence.baseline,
        "demands": len(reasons),
        "reasons": [reason.text for reason in reasons] or ["no suite has a floor: nothing was demanded"],
        "unmet": [reason.text for reason in sorted(reasons, key=lambda r: r.met is None) if not reason.met],
        "open": [reason.text for reason in reasons if reason.met is None],
    }


def _against_baseline(suites: Sequence[Suite], settings: Evaluate, evidence: Evidence) -> Verdicts:
    a, b = evidence.baseline, evidence.served
    both = {s.name: (evidence.answers[s.name, a], evidence.answers[s.name, b]) for s in suites if a != b}
    tasks = {suite: pair(before, after) for suite, (before, after) in both.items()}
    return judge_tasks(a, b, tasks, settings.confidence)


def pair(a: Sequence[Answer], b: Sequence[Answer]) -> Paired:
    """Two models' answers to the same items, in the same order, as right or not."""
    return Paired([x.name_correct for x in a], [x.name_correct for x in b], [x.carrier for x in b])


def _of_suite(suite: Suite, settings: Evaluate, evidence: Evidence) -> list[Reason]:
    answers = evidence.answers[suite.name, evidence.served]
    found = [_floor(suite, answers, settings.confidence, evidence.served)] if suite.floor is not None else []
    found += [_seen(suite.name, evidence.seen.get(suite.name, 0), len(answers))]
    return found if suite.only_compared else [*found, *_never_right(suite.name, answers)]


def _floor(suite: Suite, answers: Sequence[Answer], confidence: float, served: str) -> Reason:
    assert suite.floor is not None
    right, n = [a.name_correct for a in answers], len(answers)
    draws = [a.carrier for a in answers] if suite.independent == "frames" else [str(i) for i in range(n)]
    share, bound = sum(right) / n, statistics.lower_bound(right, draws, confidence)
    line = f"{suite.name}: {served} is right in {share:.1%} of {n}; lower bound {bound:.1%}, over {suite.independent},"
    if bound >= suite.floor:
        return Reason(True, f"{line} reaches the floor of {suite.floor:.1%}")
    effect = statistics.cautious_effect(right, draws)
    needed = statistics.items_for_bound(suite.floor, share, confidence, effect)
    if needed is None:
        return Reason(False, f"{line} is below the floor of {suite.floor:.1%}")
    more = f"too few items: {max(1, needed - n)} more needed at this share"
    return Reason(None, f"{line} is below the floor of {suite.floor:.1%}, the share is not; {more}")


def _seen(suite: str, seen: int, n: int) -> Reason:
    line = f"{suite}: {seen} of {n} items stand in training, word for word or by their sentence frame"
    return Reason(
        seen <= SEEN_AT_MOST * n, line + ("" if seen <= SEEN_AT_MOST * n else ": what was seen proves nothing")
    )


def _never_right(suite: str, answers: Sequence[Answer]) -> list[Reason]:
    """A tool that is asked for and never named: a share over all tools can hide it."""
    asked: dict[str, list[bool]] = {}
    for answer in answers:
        if kind := wanted(answer):
            asked.setdefault(kind, []).append(answer.name_correct)
    never = [
        f"{kind} (0 of {len(found)})"
        for kind, found in asked.items()
        if len(found) >= NEVER_RIGHT_OF and not any(found)
    ]
    return [Reason(False, f"{suite}: asked for and never right: {', '.join(never)}")] if never else []


def _of_gate(gate: Gate, suites: Sequence[Suite], verdicts: Verdicts, evidence: Evidence) -> list[Reason]:
    found: list[Reason | None] = (
        [_not_worse(verdict, verdicts.a) for verdict in verdicts.tasks] if gate.no_task_worse else []
    )
    if not suites:
        found.append(Reason(None, "no suite that can prove anything was asked"))
    elif gate.composite is not None and (counted := [suite for suite in suites if not suite.only_compared]):
        found.append(_composite(gate.composite, counted, evidence))
    if gate.whole_catalogue and evidence.catalogue:
        found.append(_all_asked(suites, evidence))
    found.append(_at_most("validation loss, nats per learned token", evidence.validation_loss, gate.validation_loss))
    found.append(_at_most("perplexity, all tokens of held-out rows", evidence.perplexity, gate.perplexity))
    return [reason for reason in found if reason]


def _not_worse(verdict: Verdict, baseline: str) -> Reason:
    shown = f"{verdict.difference:+.1%} ({verdict.low:+.1%} to {verdict.high:+.1%}, n = {verdict.n})"
    line = f"{verdict.task}: against {baseline} {verdict.told}, {shown}"
    if verdict.verdict == "worse":
        return Reason(False, line)
    return Reason(True if verdict.verdict != "too few" or verdict.low > -MATTERS else None, line)


def _composite(floor: float, suites: Sequence[Suite], evidence: Evidence) -> Reason:
    shares = [_share(evidence.answers[suite.name, evidence.served]) for suite in suites]
    composite = 100 * sum(shares) / len(shares)
    line = f"composite {composite:.1f} over {len(shares)} suites, {floor:g} demanded"
    return Reason(composite >= floor, line)


def _all_asked(suites: Sequence[Suite], evidence: Evidence) -> Reason:
    asked = {wanted(answer) for suite in suites for answer in evidence.answers[suite.name, evidence.served]}
    missing = [name for name in (*evidence.catalogue, NO_TOOL) if name not in asked]
    if not missing:
        return Reason(True, f"all {len(evidence.catalogue)} tools are asked for, and requests that need none are there")
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    return Reason(None, f"asked for in no suite: {', '.join(missing[:5])}{more}")


def _at_most(name: str, found: float | None, most: float | None) -> Reason | None:
    if most is None:
        return None
    if found is None:
        return Reason(None, f"{name}: not measured, below {most:g} demanded")
    return Reason(found < most, f"{name}: {found:.3f}, below {most:g} demanded")


def _share(answers: Sequence[Answer]) -> float:
    return sum(answer.name_correct for answer in answers) / len(answers)
