"""2,000 simulated rollouts for each kind of candidate, looked at after every 20 requests, by production's own rules.

Units come back as people do (Zipf), have qualities of their own and keep their side; outcomes come in bursts of
failures that hit both sides, and drift by five points. A rollout ends at 100 %, when it goes back, or after a time.
False advances: a candidate worse by the margin that reaches 100 %. False steps down: an equal one that goes back.
"""

import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])
import numpy as np

from benchmarks.common.rounds import print_result
from tuneline.configs.gateway import Policy, Step
from tuneline.endpoints.traffic.confidence import Sums
from tuneline.endpoints.traffic.verdict import Comparison, down_alpha, plan_requests, up_alpha

ROLLOUTS = 2000
LOOK_EVERY = 20
HORIZON = 30_000
UNITS = 2000
RATE = 0.9
"""Rate of good outcomes on the baseline, before quality, drift and bursts; of `main`."""
EFFECTS = {"much worse": -0.15, "worse by the margin": -0.03, "equal": 0.0, "better": 0.03}
STEPS: tuple[Step, ...] = ("shadow", "5", "25", "50")
SHARES = np.array([0.0, 0.05, 0.25, 0.5, 1.0])
DONE, BACK = len(STEPS), -1
LEVEL = 0.05
"""Most false advances, and most false steps down."""


@dataclass
class Rollouts:
    """Many rollouts at once: one row each."""

    effect: Any
    number: Any
    """Where its end is noted."""
    quality: Any
    bucket: Any
    """By unit: below a step's share, it is the candidate's."""
    good: Any
    count: Any
    """By unit, in this step."""
    step: Any
    burst: Any

    @classmethod
    def begin(cls, effects: Any, rng: np.random.Generator, first_step: int) -> "Rollouts":
        size = (len(effects), UNITS)
        quality = rng.normal(0, 0.08, size).astype(np.float32)
        bucket = rng.random(size, dtype=np.float32)
        number, step = np.arange(len(effects)), np.full(len(effects), first_step)
        zeros = np.zeros(size, np.float32), np.zeros(size, np.float32)
        return cls(np.array(effects), number, quality, bucket, *zeros, step, np.zeros(len(effects)))

    def only(self, where: Any) -> "Rollouts":
        return Rollouts(*(getattr(self, field.name)[where] for field in fields(self)))


@dataclass
class Ends:
    """How rollouts ended, by number."""

    step: Any
    requests: Any
    left_five: Any


def simulate(policy: Policy, effects: Any, horizon: int, seed: int, *, rate: float = RATE, first_step: int = 0) -> Ends:
    """Return how a rollout with each of these effects ended that began at `STEPS[first_step]`."""
    rng = np.random.default_rng(seed)
    cumulated = cumulate_popularity(UNITS)
    rollouts = Rollouts.begin(effects, rng, first_step)
    ends = Ends(np.zeros(len(effects), int), np.full(len(effects), np.nan), np.zeros(len(effects), bool))
    candidate, baseline = _empty(len(effects)), _empty(len(effects))
    for look in range(horizon // LOOK_EVERY):
        _ask(policy, rollouts, candidate, baseline, cumulated, look * LOOK_EVERY, rng, rate)
        moved = _move(policy, rollouts.step, candidate, baseline)
        _forget(moved, rollouts, candidate, baseline)
        ends.step[rollouts.number] = rollouts.step
        ends.left_five[rollouts.number] |= (rollouts.step >= 2) & (rollouts.step != BACK)
        ended = moved & ((rollouts.step == DONE) | (rollouts.step == BACK))
        ends.requests[rollouts.number[ended]] = (look + 1) * LOOK_EVERY
        going = (rollouts.step >= 0) & (rollouts.step < DONE)
        if not going.any():
            break
        if going.mean() < 0.8:  # those that have ended cost no more time
            rollouts, candidate, baseline = rollouts.only(going), _of(candidate, going), _of(baseline, going)
    return ends


def cumulate_popularity(units: int) -> Any:
    """Return the cumulated shares of requests of units, the most frequent first (Zipf)."""
    popularity = 1 / np.arange(1, units + 1) ** 0.8
    return np.cumsum(popularity / popularity.sum())


def zipf_users(units: int, requests: int, rng: np.random.Generator) -> Any:
    """Return the number of the unit of each request."""
    return np.searchsorted(cumulate_popularity(units), rng.random(requests)).clip(max=units - 1)


def _ask(
    policy: Policy,
    rollouts: Rollouts,
    candidate: Sums,
    baseline: Sums,
    cumulated: Any,
    asked: int,
    rng: Any,
    mean: float,
) -> None:
    """Send the requests between two looks."""
    size, rows = len(rollouts.step), np.arange(len(rollouts.step))
    begins = rng.random(size) < 0.005
    rollouts.burst = np.where(begins, rng.integers(2, 8, size), np.maximum(rollouts.burst - 1, 0))
    shared = np.where(rollouts.burst > 0, 0.5, 1.0)
    drift = 0.05 * np.sin(2 * np.pi * asked / 9000)
    paired, share = rollouts.step == 0, SHARES[rollouts.step]
    going = (rollouts.step >= 0) & (rollouts.step < DONE)
    units = np.searchsorted(cumulated, rng.random((LOOK_EVERY, size))).clip(max=UNITS - 1)
    draws = rng.random((2, LOOK_EVERY, size), dtype=np.float32)
    for unit, draw_b, draw_c in zip(units, *draws, strict=True):
        rate = np.clip(mean + drift + rollouts.quality[rows, unit], 0.05, 0.97)
        good_b, good_c = draw_b < rate * shared, draw_c < np.clip(rate + rollouts.effect, 0, 1) * shared
        on_candidate = (rollouts.bucket[rows, unit] < share) | paired
        outcome = np.where(paired, good_c.astype(float) - good_b, np.where(on_candidate, good_c, good_b))
        s, n = rollouts.good[rows, unit], rollouts.count[rows, unit]
        counts = going & (n < policy.requests_per_unit)
        candidate.add(s, n, outcome, (counts & on_candidate).astype(float))
        baseline.add(s, n, outcome, (counts & ~on_candidate).astype(float))
        rollouts.good[rows, unit] = s + counts * outcome
        rollouts.count[rows, unit] = n + counts


def _move(policy: Policy, step: Any, candidate: Sums, baseline: Sums) -> Any:
    """Move the rollouts whose numbers say so, in place, and return which ones moved."""
    moved = np.zeros(len(step), bool)
    for number, name in enumerate(STEPS):
        here = (step == number) & ~moved
        if not here.any():
            continue
        comparison = Comparison(_of(candidate, here), None if number == 0 else _of(baseline, here))
        margin, enough = policy.margin_of(name), comparison.units >= policy.least_units
        back = enough & (comparison.upper(down_alpha(policy), margin) < -policy.back_if_worse_by)
        up = enough & ~back & (comparison.lower(up_alpha(policy), margin) > -margin)
        places = np.flatnonzero(here)
        step[places[up]] += 1
        step[places[back]] = BACK
        moved[places[up | back]] = True
    return moved


def _forget(moved: Any, rollouts: Rollouts, *sides: Sums) -> None:
    """Begin the numbers of a new step."""
    if moved.any():
        for sums in sides:
            for field in fields(sums):
                getattr(sums, field.name)[moved] = 0
        rollouts.good[moved], rollouts.count[moved] = 0, 0


def _empty(rollouts: int) -> Sums:
    return Sums(*(np.zeros(rollouts) for _ in fields(Sums)))


def _of(sums: Sums, where: Any) -> Sums:
    return Sums(*(getattr(sums, field.name)[where] for field in fields(Sums)))


def main() -> None:
    policy, started = Policy(outcomes=("answered",)), time.monotonic()
    ends = simulate(policy, np.repeat(list(EFFECTS.values()), ROLLOUTS), HORIZON, seed=7)
    false: dict[str, float] = {}
    print(
        f"{'candidate':<20} {'at 100 %':>9} {'back':>7} {'beyond 5 %':>11} {'median requests':>16} {'95 % of them':>13}"
    )
    for number, (name, effect) in enumerate(EFFECTS.items()):
        mine = slice(number * ROLLOUTS, (number + 1) * ROLLOUTS)
        done, back = ends.step[mine] == DONE, ends.step[mine] == BACK
        middle, late = np.nanquantile(ends.requests[mine][done], (0.5, 0.95)) if done.any() else (np.nan, np.nan)
        print(f"{name:<20} {done.mean():9.2%} {back.mean():7.2%} {ends.left_five[mine].mean():11.2%} "
              f"{middle:16,.0f} {late:13,.0f}")  # fmt: skip
        false[name] = float(done.mean() if effect < 0 else back.mean())
    planned = {step: plan_requests(policy, step, RATE) for step in STEPS}
    print(f"planned for an equal candidate: {planned}, {sum(planned.values()):,} in all")
    print(f"{time.monotonic() - started:.0f} s")
    worst = max(false.values())
    print_result("traffic", worst, LEVEL, met=worst <= LEVEL, false=false)


if __name__ == "__main__":
    main()
