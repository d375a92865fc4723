"""What the request log says of a step: outcomes of both sides by unit, as they are assigned, and their feedback."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tuneline.configs.gateway import Outcome, Policy
from tuneline.endpoints.traffic.confidence import Sums
from tuneline.endpoints.traffic.verdict import Comparison

Record = Mapping[str, Any]
KEPT_REQUESTS = 50_000
"""Latest requests of a step whose feedback can still come."""
RATINGS: tuple[Outcome, ...] = ("feedback", "judged")
"""Kinds of lines that say of an answer how good it was."""
MAX_UNITS = 200_000
"""Units of a step that are told apart; later ones do not count. About 40 MB."""


def answered(record: Record) -> float | None:
    """Return 1 if the assigned side answered, 0 if not, None if that says nothing of it.

    A caller who left before anything came counts as not answered: waiting too long is why callers leave.
    """
    outcome = record.get("outcome", "ok")
    if outcome == "refused":
        return None
    if outcome == "left":
        return 1.0 if record.get("first_token_s") is not None else 0.0
    return float(outcome == "ok" and record.get("served") == record.get("assigned", "baseline"))


@dataclass
class _Request:
    """A request whose feedback, or whose shadow, can still come."""

    side: str
    unit: str
    outcomes: dict[Outcome, float]
    counted: set[Outcome] = field(default_factory=set)
    """Its ratings that are counted: `feedback`, `judged`."""
    is_paired: bool = False
    """Asked of both sides, in shadow: what a judge says of its answer counts with what it says of the other's."""


@dataclass
class _Side:
    sums: Sums = field(default_factory=Sums)
    units: dict[str, list[float]] = field(default_factory=dict)
    """Unit → its sum of outcomes and its requests."""

    def add(self, unit: str, outcome: float, most: int) -> bool:
        """Add an outcome and return true, unless the unit has had its share."""
        entry = self.units.get(unit)
        if entry is None:
            if len(self.units) >= MAX_UNITS:
                return False
            entry = self.units[unit] = [0.0, 0.0]
        if entry[1] >= most:
            return False
        self.sums.add(entry[0], entry[1], outcome)
        entry[0], entry[1] = entry[0] + outcome, entry[1] + 1
        return True

    def replace(self, unit: str, before: float, outcome: float) -> None:
        entry = self.units[unit]
        self.sums.replace(entry[0], entry[1], before, outcome)
        entry[0] += outcome - before


class StepEvidence:
    """The numbers of one step of a model's task."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._sides: dict[tuple[str, str], _Side] = {}
        """By what is measured, and the side; `pairs` are of shadow requests."""
        self._requests: OrderedDict[str, _Request] = OrderedDict()
        self.usd_by_day: dict[str, float] = {}
        """What the candidate cost."""
        self.requests = 0

    def add(self, record: Record) -> None:
        """Add a line of the request log."""
        if (kind := record.get("kind")) in RATINGS:
            self._add_rating(kind, record)
        elif record.get("shadow_of"):
            self._add_shadow(record)
        else:
            self._add_request(record)

    def comparisons(self) -> dict[Outcome, Comparison]:
        """Return outcome → both sides, or pairs where requests were asked of both."""
        found: dict[Outcome, Comparison] = {}
        for outcome in self._policy.outcomes:
            if pairs := self._sides.get((outcome, "pairs")):
                found[outcome] = Comparison(pairs.sums, None)
            elif (outcome, "candidate") in self._sides or (outcome, "baseline") in self._sides:
                found[outcome] = Comparison(self._side(outcome, "candidate").sums, self._side(outcome, "baseline").sums)
        return found

    def late(self) -> dict[str, Sums]:
        """Return what has a bound of its own → the candidate's share beyond it; of `cost`, means in twice the bound."""
        return {name: side.sums for (name, kind), side in self._sides.items() if kind == "late"}

    def _add_request(self, record: Record) -> None:
        value = answered(record)
        if value is None:
            return
        self.requests += 1
        side, unit = record.get("assigned", "baseline"), record.get("unit", "")
        request = _Request(side, unit, {"answered": value}, is_paired=record.get("step") == "shadow")
        if (valid := record.get("valid")) is not None:
            request.outcomes["valid"] = float(valid)
        self._requests[record["id"]] = request
        if len(self._requests) > KEPT_REQUESTS:
            self._requests.popitem(last=False)
        if request.is_paired:  # it counts as a pair, when its shadow has come
            return
        for outcome, good in request.outcomes.items():
            self._side(outcome, side).add(unit, good, self._policy.requests_per_unit)
        if side == "candidate":
            self._add_late(record, unit, value)

    def _add_shadow(self, record: Record) -> None:
        request = self._requests.get(record["shadow_of"])
        if request is None:
            return
        value = 1.0 if record.get("outcome", "ok") == "ok" else 0.0
        outcomes: dict[Outcome, float] = {"answered": value}
        if (valid := record.get("valid")) is not None:
            outcomes["valid"] = float(valid)
        for outcome in outcomes.keys() & request.outcomes.keys():
            difference = outcomes[outcome] - request.outcomes[outcome]
            self._side(outcome, "pairs").add(request.unit, difference, self._policy.requests_per_unit)
        self._add_late(record, request.unit, value)

    def _add_late(self, record: Record, unit: str, value: float) -> None:
        most, policy = self._policy.requests_per_unit, self._policy
        self._side("errors", "late").add(unit, 1 - value, most)
        for name, bound, seconds in (
            ("first_token", policy.first_token_p95_s, record.get("first_token_s")),
            ("latency", policy.latency_p95_s, record.get("latency_s")),
        ):
            if bound is not None and seconds is not None:
                self._side(name, "late").add(unit, float(seconds > bound), most)
        usd = float(record.get("usd") or 0)
        if (
            policy.usd_per_request is not None
        ):  # in units of twice the bound, so that it is from 0 to 1, and 0.5 the bound
            self._side("cost", "late").add(unit, min(1.0, usd / (2 * policy.usd_per_request)), most)
        day = str(record.get("at", ""))[:10]
        self.usd_by_day[day] = self.usd_by_day.get(day, 0.0) + usd

    def _add_rating(self, kind: Outcome, record: Record) -> None:
        """Count what a person, or a judge, says; a later one of the same request takes its place."""
        if record.get("shadow_of"):
            self._add_judged_pair(record)
            return
        request, value = self._requests.get(record.get("id", "")), record.get("value")
        if request is None or value is None:
            return
        if kind == "judged" and request.is_paired:
            request.outcomes.setdefault(kind, value)
            return
        side = self._side(kind, request.side)
        if kind in request.counted:
            side.replace(request.unit, request.outcomes[kind], value)
            request.outcomes[kind] = value
        elif side.add(request.unit, value, self._policy.requests_per_unit):
            request.outcomes[kind] = value
            request.counted.add(kind)

    def _add_judged_pair(self, record: Record) -> None:
        """Count what a judge says of a shadow's answer, less what it said of the request's own; once a request."""
        request = self._requests.get(record["shadow_of"])
        if request is None or "judged" not in request.outcomes or "judged" in request.counted:
            return
        difference = record["value"] - request.outcomes["judged"]
        if self._side("judged", "pairs").add(request.unit, difference, self._policy.requests_per_unit):
            request.counted.add("judged")

    def _side(self, what: str, side: str) -> _Side:
        return self._sides.setdefault((what, side), _Side())
