"""Every rollout of a gateway: its numbers from the request log, its verdict, and the moves that follow from it."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from tuneline.configs.gateway import OTHER, STEPS, Gateway, Policy, Route, Step
from tuneline.core.errors import BadRequest, GateFailed, NotFound, TunelineError
from tuneline.core.notification import notify
from tuneline.endpoints.promotion import read_promotion
from tuneline.endpoints.request_log.follower import LogFollower
from tuneline.endpoints.traffic.compared_versions import VersionReader, Versions, is_about
from tuneline.endpoints.traffic.evidence import RATINGS, StepEvidence
from tuneline.endpoints.traffic.records import CurrentStep, Move, RecordReader, move, step_after, step_before
from tuneline.endpoints.traffic.verdict import Verdict, judge, plan_requests

log = logging.getLogger(__name__)

BY_EVIDENCE = "evidence"
"""Who moved, in a record, where nobody did."""


Mover = Callable[..., Move | None]
"""As `records.move`: model, task and step; `by`, `why`, `held`, `evidence` and `expected` by name."""


@dataclass(frozen=True)
class Rollout:
    """One model's task, as `tuneline traffic ls` shows it."""

    model: str
    task: str
    step: CurrentStep
    verdict: Verdict
    requests: int
    planned: int
    """About how many requests this step takes."""


class Rollouts:
    """Follows the log; decides when asked."""

    def __init__(
        self, settings: Callable[[], Gateway], logs: Path, records: RecordReader | None = None, move: Mover = move
    ) -> None:
        """`move` writes a move where the policy is written."""
        self._settings, self._records, self.write_move = settings, records or RecordReader(), move
        self._follower = LogFollower(logs)
        self._evidence: dict[tuple[str, str], tuple[tuple[int, Versions], StepEvidence]] = {}
        """Model and task → number of the move it is since, the versions that it is about, and its numbers."""
        self._version_reader, self._versions = VersionReader(), dict[str, Versions]()
        """Model → what it compares, as of this look."""
        self.last: list[Rollout] = []
        """As of the last look."""

    @property
    def settings(self) -> Gateway:
        """The settings that count now."""
        return self._settings()

    def look(self) -> list[Rollout]:
        """Read what is new in the log, and return every rollout."""
        return self._take(self._follower.poll())

    def replay(self, every: int) -> Iterator[list[Rollout]]:
        """Read what is new in the log; yield every rollout as it was after each `every` lines, and at last as it is.

        A shadow or feedback that another process wrote may be counted late by this, or not at all; `look` counts all.
        """
        records = self._follower.poll()
        lines = list(islice(records, every))
        while lines:
            yield self._take(lines)
            lines = list(islice(records, every))
        yield self._take(())

    def _take(self, records: Iterable[dict[str, Any]]) -> list[Rollout]:
        self._versions = {
            model: self._version_reader.read(route)
            for model, route in self._settings().models.items()
            if route.candidate
        }
        later = []  # a shadow, and feedback, may be in another writer's file than the request that they are about
        for record in records:
            if record.get("kind") == "request" and not record.get("shadow_of"):
                self._add(record)
            else:
                later.append(record)
        for record in later:
            self._add(record)
        self.last = [self._rollout(model, task, route) for model, task, route in self._places()]
        return self.last

    def decide(self) -> list[Move]:
        """Make the moves that the numbers demand, and return them."""
        moves = []
        for rollout in self.look():
            try:
                if made := self._decide(rollout):
                    moves.append(made)
            except TunelineError as error:
                log.error("%s, %s: %s", rollout.model, rollout.task, error)
        return moves

    def _decide(self, rollout: Rollout) -> Move | None:
        route = self._settings().models[rollout.model]
        policy, step = route.policy_of(rollout.task), rollout.step
        reasons = [*rollout.verdict.reasons] if rollout.verdict.action == "back" else []
        reasons += self._spent(rollout, route)
        if reasons and step.step not in ("baseline",):
            return self._move(rollout, "baseline", "; ".join(reasons), held=True)
        after = step_after(step.step)
        if rollout.verdict.action != "advance" or step.held or not policy.automatic:
            return None
        if STEPS.index(after) > STEPS.index(policy.most):
            return None
        if step.step == "shadow" and (missing := missing_gate(route, policy)):
            log.info("%s, %s: %s", rollout.model, rollout.task, missing)
            return None
        return self._move(rollout, after, "; ".join(rollout.verdict.reasons))

    def _move(self, rollout: Rollout, step: Step, why: str, *, held: bool = False) -> Move | None:
        made = self.write_move(
            rollout.model,
            rollout.task,
            step,
            by=BY_EVIDENCE,
            why=why,
            held=held,
            evidence=rollout.verdict.numbers,
            expected=rollout.step.number,
        )
        if made:
            text = f"Tuneline: {rollout.model}, {rollout.task}: from {rollout.step.step} to {step}: {why}"
            log.warning("%s", text)
            if held:
                notify(text, name=rollout.model, task=rollout.task, step=step)
        return made

    def _spent(self, rollout: Rollout, route: Route) -> list[str]:
        """Return a reason if the candidate's budget of today is spent."""
        budget = route.candidate.budget_usd_per_day if route.candidate else None
        _, evidence = self._evidence.get((rollout.model, rollout.task), (None, None))
        spent = evidence.usd_by_day.get(datetime.now(UTC).date().isoformat(), 0.0) if evidence else 0.0
        return [f"its budget of {budget:g} USD per day is spent"] if budget and spent >= budget else []

    def _add(self, record: dict[str, Any]) -> None:
        if record.get("kind") in RATINGS:
            for _, evidence in self._evidence.values():
                evidence.add(record)
            return
        model, task = record.get("model", ""), record.get("task", OTHER)
        route = self._settings().models.get(model)
        if route is None or route.candidate is None:
            return
        step = self._records.step(model, task)
        if record.get("move", 0) == step.number and is_about(self._find_versions(model, route), record):
            self._numbers(model, task, route, step).add(record)

    def _find_versions(self, model: str, route: Route) -> Versions:
        """Return what a model compares; its route may be of settings that were edited during this look."""
        return self._versions.get(model) or self._version_reader.read(route)

    def _numbers(self, model: str, task: str, route: Route, step: CurrentStep) -> StepEvidence:
        """Return the numbers since the last move; a move begins new ones, and so does another version of a side."""
        subject = step.number, self._find_versions(model, route)
        known, evidence = self._evidence.get((model, task), (None, None))
        if evidence is None or known != subject:
            evidence = StepEvidence(route.policy_of(task))
            self._evidence[model, task] = subject, evidence
        return evidence

    def _places(self) -> Iterator[tuple[str, str, Route]]:
        """Yield every model with a candidate, and each of its tasks that is named or was seen."""
        for model, route in self._settings().models.items():
            if route.candidate:
                seen = {task for name, task in self._evidence if name == model}
                for task in dict.fromkeys((OTHER, *route.tasks, *sorted(seen))):
                    yield model, task, route

    def _rollout(self, model: str, task: str, route: Route) -> Rollout:
        step, policy = self._records.step(model, task), route.policy_of(task)
        evidence = self._numbers(model, task, route, step)
        verdict = judge(policy, step.step, evidence.comparisons(), evidence.late())
        planned = 0 if step.step in ("baseline", "100") else plan_requests(policy, step.step)
        return Rollout(model, task, step, verdict, evidence.requests, planned)


def missing_gate(route: Route, policy: Policy) -> str:
    """Return why a candidate may not have live traffic yet, or an empty text: its offline verdict comes first."""
    if not policy.verdict or route.candidate is None:
        return ""
    if not route.candidate.promoted:
        return "the candidate is not a promoted model and has no offline verdict; its policy needs `verdict: false`"
    try:
        version = read_promotion(route.candidate.promoted).current
    except NotFound as error:
        return str(error)
    if version.gate == "pass" or version.override:
        return ""
    return f"{route.candidate.promoted}: its gate says {version.gate}"


def advance(rollouts: Rollouts, model: str, task: str, by: str, override: str = "") -> Move:
    """Move one step up, if the evidence allows it or a reason is given, and return the move.

    Raises:
        GateFailed: the evidence does not allow it. NotFound: no such rollout. BadRequest: there is no step above.
    """
    rollout = find_rollout(rollouts, model, task)
    step = rollout.step.step
    if step == "100":
        raise BadRequest(f"{model}, {task}: already has all traffic")
    route = rollouts.settings.models[model]
    reasons = [] if rollout.verdict.action == "advance" or step == "baseline" else [*rollout.verdict.reasons]
    if step == "shadow" and (gate := missing_gate(route, route.policy_of(task))):
        reasons.append(gate)
    if reasons and not override:
        remedy = f'`tuneline traffic advance {model} --task {task} --override "REASON"`, which is recorded'
        more = rollout.verdict.missing_requests
        about = [f"about {more:,} more requests are needed"] if more else []
        raise GateFailed(
            "\n".join([f"{model}, {task}: stays at {step}:", *reasons, *about, f"to advance anyway: {remedy}"])
        )
    why = f"override: {override}" if reasons else override or "the evidence allows it"
    return _by_hand(rollouts, rollout, step_after(step), by, why)


def hold(rollouts: Rollouts, model: str, task: str, by: str, why: str = "") -> Move:
    """Stay at this step until a person moves it, and return the move."""
    rollout = find_rollout(rollouts, model, task)
    return _by_hand(rollouts, rollout, rollout.step.step, by, why or "held", held=True)


def back(rollouts: Rollouts, model: str, task: str, by: str, why: str = "", *, one_step: bool = False) -> Move:
    """Go back to the baseline, or one step down, at once; it stays there until a person moves it."""
    rollout = find_rollout(rollouts, model, task)
    step = step_before(rollout.step.step) if one_step else "baseline"
    return _by_hand(rollouts, rollout, step, by, why or "taken back", held=True)


def find_rollout(rollouts: Rollouts, model: str, task: str) -> Rollout:
    """Return a rollout.

    Raises:
        NotFound: no such model with a candidate, or no such task.
    """
    every = rollouts.look()
    found = next((rollout for rollout in every if (rollout.model, rollout.task) == (model, task)), None)
    if found is None:
        names = (
            ", ".join(f"{rollout.model} --task {rollout.task}" for rollout in every) or "none: no model has a candidate"
        )
        raise NotFound(f"{model} --task {task}: no such rollout; known: {names}")
    return found


def _by_hand(rollouts: Rollouts, rollout: Rollout, step: Step, by: str, why: str, *, held: bool = False) -> Move:
    made = rollouts.write_move(
        rollout.model, rollout.task, step, by=by, why=why, held=held, evidence=rollout.verdict.numbers
    )
    assert made  # without `expected` nobody can be faster
    return made
