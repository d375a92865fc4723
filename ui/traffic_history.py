"""Each rollout as it is, how its sequential test has narrowed since the last move, and its two moves by hand."""

from dataclasses import dataclass, field
from pathlib import Path

from tuneline.configs.gateway import Gateway, read_gateway
from tuneline.core import paths
from tuneline.endpoints.traffic import rollouts
from tuneline.endpoints.traffic.records import Move, move
from tuneline.endpoints.traffic.rollouts import Mover, Rollout, Rollouts

EVERY = 25
"""Lines of the log between two points, to begin with."""
MOST_POINTS = 200
"""Points of a curve; beyond them every second one is left out."""
Place = tuple[str, str]
"""Model and task."""


@dataclass(frozen=True)
class Bounds:
    """An outcome's difference, candidate minus baseline, after so many requests."""

    requests: float
    lower: float
    difference: float
    upper: float


@dataclass
class Narrowing:
    """The bounds of one step, by outcome, oldest first."""

    step: int
    """Number of the move that began it."""
    by_outcome: dict[str, list[Bounds]] = field(default_factory=dict)

    def add(self, rollout: Rollout) -> None:
        for outcome, numbers in rollout.verdict.numbers.items():
            points = self.by_outcome.setdefault(outcome, [])
            if not points or points[-1].requests != numbers["requests"]:
                bounds = Bounds(numbers["requests"], numbers["lower"], numbers["difference"], numbers["upper"])
                points.append(bounds)
            if len(points) > MOST_POINTS:
                del points[1::2]


class TrafficHistory:
    """Follows the log of a gateway with the gateway's own code; decides nothing."""

    def __init__(self, settings: Path, by: str, move: Mover = move) -> None:
        """`settings` is the gateway.yaml, `by` who moves by hand, `move` what writes a move.

        Raises:
            BadRecipe: it cannot be read.
        """
        self.settings: Gateway = read_gateway(settings)
        self._by, self._move = by, move
        self._rollouts = Rollouts(lambda: self.settings, paths.logs())
        self.narrowings: dict[Place, Narrowing] = {}

    def refresh(self) -> list[Rollout]:
        """Read what is new in the log, and return every rollout."""
        for earlier in self._rollouts.replay(EVERY):
            for rollout in earlier:
                self._add(rollout)
        return self._rollouts.last

    def margin(self, rollout: Rollout) -> float:
        """Return how much worse an outcome may be and still count as no worse."""
        return self.settings.models[rollout.model].policy_of(rollout.task).margin_of(rollout.step.step)

    def hold(self, model: str, task: str) -> Move:
        """Keep the step until a person moves it. Raises NotFound, BadRequest."""
        return rollouts.hold(self._open(), model, task, self._by, "held on the page")

    def back(self, model: str, task: str) -> Move:
        """Send all traffic to the baseline. Raises NotFound, BadRequest."""
        return rollouts.back(self._open(), model, task, self._by, "taken back on the page")

    def _open(self) -> Rollouts:
        """Return the rollouts by the whole log: what a move records is exact, whichever process wrote the lines."""
        return Rollouts(lambda: self.settings, paths.logs(), move=self._move)

    def _add(self, rollout: Rollout) -> None:
        place = rollout.model, rollout.task
        narrowing = self.narrowings.get(place)
        if narrowing is None or narrowing.step != rollout.step.number:
            narrowing = self.narrowings[place] = Narrowing(rollout.step.number)
        narrowing.add(rollout)
