"""The plan of a recipe: what it needs, how long it takes and what it costs, without torch or weights."""

from dataclasses import dataclass
from pathlib import Path

from tuneline.configs.recipe import Recipe
from tuneline.core import paths
from tuneline.stages.plan.base_shape import read_base_shape
from tuneline.stages.plan.dataset_size import estimate_dataset
from tuneline.stages.plan.idle_gpus import refuse_idle_gpus
from tuneline.stages.plan.preemption import PreemptionLoss, plan_preemption_loss
from tuneline.stages.plan.serving import ServingPlan, plan_serving, refuse_unservable
from tuneline.stages.plan.stage_bounds import (
    RunState,
    StageBound,
    bound_stages,
    read_stage_states,
    refuse_too_expensive,
)
from tuneline.stages.plan.stop_time import StopTime, plan_stop_time, refuse_too_slow
from tuneline.stages.plan.training import TrainingPlan, plan_training


@dataclass(frozen=True)
class Plan:
    """What `tuneline plan` prints."""

    recipe: str
    run: str
    base: str
    training: TrainingPlan
    stop: StopTime
    preemption: PreemptionLoss | None
    """None if the recipe's hardware does not hold the training."""
    serving: ServingPlan
    line: tuple[StageBound, ...]
    """The stages in order."""


def make_plan(
    recipe: Recipe,
    run: Path | None = None,
    *,
    context: int | None = None,
    streams: int = 1,
    api_usd: float | None = None,
) -> Plan:
    """Return the plan of a recipe, in the run folder of its name unless `run` is given.

    Raises:
        NotFound: no such base.
        BadRecipe: the base's config.json lacks the sizes.
    """
    run = run or paths.run_folder(recipe.name)
    shape, states = read_base_shape(recipe), read_stage_states(recipe, run)
    training = plan_training(recipe, shape, estimate_dataset(recipe, run))
    stop_time = plan_stop_time(recipe, training)
    return Plan(
        recipe=recipe.name,
        run=run.name,
        base=recipe.base,
        training=training,
        stop=stop_time,
        preemption=plan_preemption_loss(recipe, training),
        serving=plan_serving(recipe, shape, context, streams, api_usd),
        line=tuple(bound_stages(recipe, tuple(states), RunState(states, train_stop_s=stop_time.total))),
    )


def refuse_unstartable(recipe: Recipe, plan: Plan) -> None:
    """Raise BadRecipe for what should not be started.

    That is a form the engine cannot load, a GPU that nothing would use, a training that cannot stop in time, or a cost
    above the limit.
    """
    refuse_unservable(recipe)
    refuse_idle_gpus(recipe)
    refuse_too_slow(plan.stop)
    refuse_too_expensive(recipe, plan.line)
