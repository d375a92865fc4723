"""Demands on the answers of an evaluation: each suite's floor, tools that are never right, tasks that got worse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tuneline.configs.evaluation import Gate, Suite
from tuneline.stages.evaluate import statistics
from tuneline.stages.evaluate.answers import NO_TOOL, Answer, expected_label
from tuneline.stages.evaluate.verdicts.reason import Reason
from tuneline.stages.evaluate.verdicts.task_verdicts import MATTERS, Verdict, Verdicts

MAX_SEEN_SHARE = 0.01
"""Share of a suite's items that may be in the training data, word for word or by their sentence template."""

NEVER_RIGHT_OF = 8
"""A tool expected this often and never right is not known: even one that is right one time in three has a chance of 4 %
to look so."""

MISSING_SHOWN = 5
"""Names in the list of tools that no suite asks for."""


@dataclass(frozen=True)
class Evidence:
    """What the gate decides on, beside the recipe's demands."""

    answers: Mapping[tuple[str, str], Sequence[Answer]]
    """By (suite, target), in the order of the items."""
    served: str
    """The target that goes live."""
    baseline: str
    """The target it is compared with."""
    seen_items: Mapping[str, int] = field(default_factory=dict)
    """Items of each suite that are in the training data."""
    catalogue: Sequence[str] = ()
    """Names of the tools the model has."""
    validation_loss: float | None = None
    """In nats per token in the loss."""
    perplexity: float | None = None
    """Of the served file, over all tokens of the run's own held-out rows."""


def suite_reasons(suite: Suite, confidence: float, evidence: Evidence) -> list[Reason]:
    """Return the demands on one suite: its floor, no training items, and no tool that is never right."""
    answers = evidence.answers[suite.name, evidence.served]
    reasons = [_floor(suite.floor, suite, answers, confidence, evidence.served)] if suite.floor is not None else []
    reasons += [_not_in_training(suite.name, evidence.seen_items.get(suite.name, 0), len(answers))]
    return reasons if suite.only_compared else [*reasons, *_never_right(suite.name, answers)]


def _floor(floor: float, suite: Suite, answers: Sequence[Answer], confidence: float, served: str) -> Reason:
    right, n = [a.name_correct for a in answers], len(answers)
    clusters = [a.phrasing for a in answers] if suite.independent == "phrasings" else [str(i) for i in range(n)]
    share, bound = sum(right) / n, statistics.lower_bound(right, clusters, confidence)
    line = f"{suite.name}: {served} is right in {share:.1%} of {n}; lower bound {bound:.1%}, over {suite.independent},"
    if bound >= floor:
        return Reason(True, f"{line} reaches the floor of {floor:.1%}")
    effect = statistics.cautious_effect(right, clusters)
    needed = statistics.items_for_bound(floor, share, confidence, effect)
    if needed is None:
        return Reason(False, f"{line} is below the floor of {floor:.1%}")
    more = f"too few items: {max(1, needed - n)} more needed at this share"
    return Reason(None, f"{line} is below the floor of {floor:.1%}, although the share is not; {more}")


def _not_in_training(suite: str, seen_items: int, n: int) -> Reason:
    line = f"{suite}: {seen_items} of {n} items overlap with the training data, word for word or by their template"
    is_met = seen_items <= MAX_SEEN_SHARE * n
    return Reason(is_met, line if is_met else f"{line}: items that were trained on prove nothing")


def _never_right(suite: str, answers: Sequence[Answer]) -> list[Reason]:
    """Return a failed demand if a tool is expected and never called: a share over all tools can hide it."""
    by_kind: dict[str, list[bool]] = {}
    for answer in answers:
        if kind := expected_label(answer):
            by_kind.setdefault(kind, []).append(answer.name_correct)
    never = [
        f"{kind} (0 of {len(right)})"
        for kind, right in by_kind.items()
        if len(right) >= NEVER_RIGHT_OF and not any(right)
    ]
    return [Reason(False, f"{suite}: requested but never right: {', '.join(never)}")] if never else []


def gate_reasons(gate: Gate, suites: Sequence[Suite], verdicts: Verdicts, evidence: Evidence) -> list[Reason]:
    """Return the demands of the gate over all suites that can prove something."""
    reasons: list[Reason | None] = (
        [_not_worse(verdict, verdicts.a) for verdict in verdicts.tasks] if gate.no_task_worse else []
    )
    if not suites:
        reasons.append(Reason(None, "no suite that counts as evidence was run"))
    elif gate.composite is not None and (counted := [suite for suite in suites if not suite.only_compared]):
        reasons.append(_composite(gate.composite, counted, evidence))
    if gate.whole_catalogue and evidence.catalogue:
        reasons.append(_whole_catalogue(suites, evidence))
    reasons.append(
        _below("validation loss, nats per token in the loss", evidence.validation_loss, gate.validation_loss)
    )
    reasons.append(_below("perplexity, all tokens of held-out rows", evidence.perplexity, gate.perplexity))
    return [reason for reason in reasons if reason]


def _not_worse(verdict: Verdict, baseline: str) -> Reason:
    difference = f"{verdict.difference:+.1%} ({verdict.low:+.1%} to {verdict.high:+.1%}, n = {verdict.n})"
    line = f"{verdict.task}: against {baseline} {verdict.summary}, {difference}"
    if verdict.verdict == "worse":
        return Reason(False, line)
    return Reason(True if verdict.verdict != "too few" or verdict.low > -MATTERS else None, line)


def _composite(floor: float, suites: Sequence[Suite], evidence: Evidence) -> Reason:
    shares = [_share(evidence.answers[suite.name, evidence.served]) for suite in suites]
    composite = 100 * sum(shares) / len(shares)
    line = f"composite {composite:.1f} over {len(shares)} suites, {floor:g} required"
    return Reason(composite >= floor, line)


def _whole_catalogue(suites: Sequence[Suite], evidence: Evidence) -> Reason:
    expected = {expected_label(answer) for suite in suites for answer in evidence.answers[suite.name, evidence.served]}
    missing = [name for name in (*evidence.catalogue, NO_TOOL) if name not in expected]
    if not missing:
        return Reason(True, f"all {len(evidence.catalogue)} tools are covered, as are requests that need no tool")
    more = f" and {len(missing) - MISSING_SHOWN} more" if len(missing) > MISSING_SHOWN else ""
    return Reason(None, f"not covered by any suite: {', '.join(missing[:MISSING_SHOWN])}{more}")


def _below(name: str, value: float | None, limit: float | None) -> Reason | None:
    if limit is None:
        return None
    if value is None:
        return Reason(None, f"{name}: not measured, below {limit:g} required")
    return Reason(value < limit, f"{name}: {value:.3f}, below {limit:g} required")


def _share(answers: Sequence[Answer]) -> float:
    return sum(answer.name_correct for answer in answers) / len(answers)
