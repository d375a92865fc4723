"""What the numbers of a step say: go on, wait for how many more requests, or go back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tuneline.configs.gateway import Outcome, Policy, Step
from tuneline.endpoints.traffic.confidence import Numbers, Sums, radius, requests_to_resolve

STEPS_WITH_CANDIDATE = 5
"""shadow, 5, 25, 50 and 100: the chance of a false step down is shared among them."""
LATE = 0.05
"""Share of requests that may be later than a 95th percentile's bound."""
USUAL_RATE = 0.9
"""Rate of good outcomes that a plan assumes where none was seen yet."""
SHARE_OF: dict[Step, float] = {"5": 0.05, "25": 0.25, "50": 0.5}


@dataclass(frozen=True)
class Comparison:
    """Both sides of one outcome; paired, the candidate's sums are of differences."""

    candidate: Sums
    baseline: Sums | None
    """None where each request is asked of both: in shadow."""

    @property
    def difference(self) -> Numbers:
        return self.candidate.mean - (0.0 if self.baseline is None else self.baseline.mean)

    @property
    def variance(self) -> Numbers:
        if self.baseline is None:
            return self.candidate.variance(paired=True)
        return self.candidate.variance() + self.baseline.variance()

    @property
    def units(self) -> Numbers:
        """Units of the smaller side."""
        if self.baseline is None:
            return self.candidate.units
        import numpy as np

        return np.minimum(self.candidate.units, self.baseline.units)

    @property
    def requests(self) -> Numbers:
        return self.candidate.requests + (0.0 if self.baseline is None else self.baseline.requests)

    def lower(self, alpha: float, resolution: float) -> Numbers:
        return self.difference - radius(self.variance, alpha, resolution)

    def upper(self, alpha: float, resolution: float) -> Numbers:
        return self.difference + radius(self.variance, alpha, resolution)


@dataclass(frozen=True)
class Verdict:
    """What follows from a step's numbers."""

    action: Literal["advance", "wait", "back"]
    reasons: tuple[str, ...] = ()
    missing_requests: int = 0
    """About how many more requests the slowest outcome needs; 0 unless waiting for them."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """Outcome → what was seen of it."""


def up_alpha(policy: Policy) -> float:
    """Return the chance of a false step up: every outcome must be shown, so it is not shared among them."""
    return 1 - policy.confidence


def down_alpha(policy: Policy) -> float:
    """Return the chance of a false step down by one test of one step: any of them would be enough."""
    bounds = sum(
        bound is not None for bound in (policy.first_token_p95_s, policy.latency_p95_s, policy.usd_per_request)
    )
    return (1 - policy.confidence) / STEPS_WITH_CANDIDATE / (len(policy.outcomes) + 1 + bounds)


def judge(
    policy: Policy,
    step: Step,
    outcomes: Mapping[Outcome, Comparison],
    late: Mapping[str, Sums],
) -> Verdict:
    """Return the verdict on a step; `late` has sums of the candidate's failures, and of requests beyond a bound."""
    margin = policy.margin_of(step)
    outcomes = {name: comparison for name, comparison in outcomes.items() if comparison.units}  # on both sides
    numbers: dict[str, Any] = {name: _describe(comparison, policy, margin) for name, comparison in outcomes.items()}
    if reasons := [*_worse(policy, outcomes, margin), *_beyond(policy, late)]:
        return Verdict("back", tuple(reasons), numbers=numbers)
    if step in ("baseline", "100"):
        return Verdict("wait", numbers=numbers)
    waiting: list[str] = []
    missing = 0
    for name in policy.outcomes:
        if name not in outcomes:
            if not (outcomes and _may_be_unseen(name, step)):
                waiting, missing = [*waiting, f"{name}: no data yet"], max(missing, plan_requests(policy, step))
            continue
        comparison = outcomes[name]
        more = requests_missing(policy, step, comparison)
        if more:
            waiting.append(f"{name}: {comparison.difference:+.3f} on {comparison.requests:.0f} requests, "
                           f"not yet shown to be above {-margin:+.3f}")  # fmt: skip
            missing = max(missing, more)
    waiting += [
        f"{name}: {_shown(policy, name, sums.mean)} of {sums.requests:.0f}, "
        f"more than {_shown(policy, name, _bound(policy, name))}"
        for name, sums in late.items()
        if sums.requests and sums.mean > _bound(policy, name)
    ]
    if waiting:
        return Verdict("wait", tuple(waiting), missing, numbers)
    return Verdict("advance", ("no worse than the margin in everything",), 0, numbers)


def _may_be_unseen(outcome: Outcome, step: Step) -> bool:
    """Return whether a step can do without an outcome: nobody called a tool, or rates what a shadow answers."""
    return outcome == "valid" or (outcome in ("feedback", "judged") and step == "shadow")


def requests_missing(policy: Policy, step: Step, comparison: Comparison) -> int:
    """Return about how many more requests of both sides show that a candidate is no worse; 0 if they have."""
    margin, alpha = policy.margin_of(step), up_alpha(policy)
    if comparison.units >= policy.least_units and comparison.lower(alpha, margin) > -margin:
        return 0
    distance = margin + min(0.0, float(comparison.difference))
    variance_of_one = float(comparison.variance * max(1.0, float(comparison.requests)))
    needed = requests_to_resolve(distance, variance_of_one, alpha, margin) - float(comparison.requests)
    by_units = (policy.least_units - float(comparison.units)) / max(SHARE_OF.get(step, 1.0), 0.05)
    return max(1, round(max(needed, by_units)))


def plan_requests(policy: Policy, step: Step, rate: float = USUAL_RATE) -> int:
    """Return about how many requests an equal candidate needs for its way from `step` to the next one."""
    share, variance = SHARE_OF.get(step), rate * (1 - rate)
    one = variance * 2 if share is None else variance * (1 / share + 1 / (1 - share))
    margin = policy.margin_of(step)
    by_units = policy.least_units / (share or 1.0)
    return round(max(by_units, requests_to_resolve(margin, one, up_alpha(policy), margin)))


def _worse(policy: Policy, outcomes: Mapping[Outcome, Comparison], margin: float) -> list[str]:
    """Return a reason for each outcome in which the candidate is shown to be worse."""
    alpha = down_alpha(policy)
    return [
        f"{name}: {comparison.difference:+.3f}, at most {upper:+.3f} ({comparison.requests:.0f} requests)"
        for name, comparison in outcomes.items()
        if comparison.units >= policy.least_units
        and (upper := comparison.upper(alpha, margin)) < -policy.back_if_worse_by
    ]


def _beyond(policy: Policy, late: Mapping[str, Sums]) -> list[str]:
    """Return a reason for each bound that the candidate is shown to break."""
    alpha = down_alpha(policy)
    return [
        f"{name}: {_shown(policy, name, sums.mean)} of {sums.requests:.0f}, at least {_shown(policy, name, lower)}, "
        f"more than {_shown(policy, name, _bound(policy, name))}"
        for name, sums in late.items()
        if sums.units >= policy.least_units / 2
        and (lower := sums.mean - radius(sums.variance(), alpha, 0.1)) > _bound(policy, name)
    ]


def _bound(policy: Policy, name: str) -> float:
    return {"errors": policy.error_rate, "cost": 0.5}.get(name, LATE)


def _shown(policy: Policy, name: str, mean: Numbers) -> str:
    """Return a share as people read it, or a cost in USD: a mean of `cost` is in units of twice its bound."""
    if name == "cost" and policy.usd_per_request:
        return f"{2 * policy.usd_per_request * float(mean):.3g} USD a request"
    return f"{float(mean):.1%}"


def _describe(comparison: Comparison, policy: Policy, margin: float) -> dict[str, float]:
    return {
        "candidate": round(float(comparison.candidate.mean), 4),
        "baseline": round(float(0 if comparison.baseline is None else comparison.baseline.mean), 4),
        "difference": round(float(comparison.difference), 4),
        "lower": round(float(comparison.lower(up_alpha(policy), margin)), 4),
        "upper": round(float(comparison.upper(down_alpha(policy), margin)), 4),
        "requests": round(float(comparison.requests)),
        "units": round(float(comparison.units)),
    }
