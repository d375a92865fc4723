"""Work that a preemption destroys: the steps since the last checkpoint are computed again."""

import math
from dataclasses import dataclass

from tuneline.configs.hardware import Range
from tuneline.configs.recipe import Recipe
from tuneline.stages.plan.training import TrainingPlan


@dataclass(frozen=True)
class PreemptionLoss:
    """What one preemption costs on the recipe's own hardware, beside the time to get a machine and load the base."""

    interval_s: Range
    """Seconds between two checkpoints."""

    @property
    def expected_s(self) -> Range:
        """Half of the interval: a preemption comes at any time of it alike."""
        return self.interval_s[0] / 2, self.interval_s[1] / 2


def plan_preemption_loss(recipe: Recipe, plan: TrainingPlan) -> PreemptionLoss | None:
    """Return the loss by checkpoints of `train.save_steps` and `compute.save_minutes`, whichever come first.

    Nothing is counted on that is saved at the signal itself: a step takes longer than the grace of most providers. None
    if the recipe's hardware does not hold the training.
    """
    option = next((option for option in plan.ways if option.asked), None)
    if option is None:
        return None
    rows, (slowest, fastest) = recipe.train.batch_rows, option.tokens_per_second
    tokens = (recipe.data.max_tokens,) * 2 if recipe.train.packing else plan.rows.tokens
    steps = (rows * tokens[0] / fastest, rows * tokens[1] / slowest)
    minutes = recipe.compute.save_minutes
    seconds = math.inf if minutes is None else 60 * minutes
    low, high = (min(recipe.train.save_steps * step, seconds + step) for step in steps)
    return PreemptionLoss((low, high))
