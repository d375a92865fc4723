"""Hardware, upper bound on cost, and state of each stage before a pipeline run starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tuneline.configs.compute import LONGEST_STOP_S, PIPELINE_CONTAINER, STOP_S, WAIT_HOURS, Compute, Container
from tuneline.configs.recipe import Recipe
from tuneline.core import paths
from tuneline.core.errors import BadRecipe, NotFound, StaleArtifact
from tuneline.core.spending import Attempt, sum_hours

STAGES = tuple(name for name, field in Compute.model_fields.items() if isinstance(field.default, Container))
"""In the order they run; `compute` has an entry for each."""
PIPELINE = "pipeline"
"""The pipeline run's own entry among the bounds."""


NOT_IN_IT = "starting and ending containers, and storage"
"""What Modal may bill beside the bound."""


@dataclass(frozen=True)
class StageBound:
    """One stage on Modal, and the most it can still take and cost."""

    stage: str
    gpu: str | None
    cores: float
    memory_gib: float
    hours: float
    """Most hours of the stage in this run."""
    hours_used: float
    """Hours of them that are used."""
    hours_at_most: float
    """Most hours that can still be billed: the rest, and the time to stop."""
    usd_at_most: float
    state: str = "to do"
    """`to do`; `finished`, which costs nothing; or `stale`: made from other settings."""


@dataclass(frozen=True)
class RunState:
    """What is there of a run before the pipeline runs."""

    states: Mapping[str, str] = field(default_factory=dict)
    """Stage → `finished`, `stale` or `to do`; `to do` where it is missing."""
    attempts: Sequence[Attempt] = ()
    train_stop_s: float = LONGEST_STOP_S
    """Seconds granted to training for stopping."""


def bound_stages(recipe: Recipe, stages: Sequence[str], run_state: RunState | None = None) -> list[StageBound]:
    """Return what each stage may still cost: price × (hours left + time to stop), at the prices in hardware.yaml.

    Hours count over all calls, preemptions, retries and commands of the run, and the call itself keeps them, so that
    retries cost no more. Evaluation adds the budget of its hosted targets. The last entry is the pipeline run itself
    (`pipeline`), which waits for the stages that are not finished, and for their containers to start.
    """
    run_state = run_state or RunState()
    bounds = [_bound_stage(recipe, stage, run_state) for stage in stages]
    hours = sum(bound.hours_at_most for bound in bounds)
    return [*bounds, _bound_pipeline(hours + WAIT_HOURS)] if hours else bounds


def _bound_stage(recipe: Recipe, stage: str, run_state: RunState) -> StageBound:
    container: Container = getattr(recipe.compute, stage)
    state, used = run_state.states.get(stage, "to do"), sum_hours(run_state.attempts, stage)
    hours = container.hours_at_most(used, run_state.train_stop_s if stage == "train" else STOP_S)
    usd = container.usd_per_hour * hours
    if stage == "evaluate":
        usd += sum(target.budget_usd for target in recipe.evaluate.targets)
    if state == "finished":
        used = hours = usd = 0.0
    return StageBound(
        stage=stage,
        gpu=container.gpu,
        cores=container.cores,
        memory_gib=container.memory_gib,
        hours=container.hours,
        hours_used=used,
        hours_at_most=hours,
        usd_at_most=usd,
        state=state,
    )


def _bound_pipeline(hours: float) -> StageBound:
    container = PIPELINE_CONTAINER
    usd, size = container.usd_per_hour * hours, (container.cores, container.memory_gib)
    return StageBound(PIPELINE, None, *size, hours=hours, hours_used=0.0, hours_at_most=hours, usd_at_most=usd)


def refuse_too_expensive(recipe: Recipe, bounds: Sequence[StageBound], spent_usd: float = 0.0) -> None:
    """Raise BadRecipe if the stages, with what the run has cost, could cost more than the recipe allows."""
    total, limit = sum(bound.usd_at_most for bound in bounds), recipe.compute.max_cost_usd
    if limit is not None and spent_usd + total > limit:
        spent = f" in addition to {spent_usd:.2f} already spent" if spent_usd else ""
        raise BadRecipe(
            f"compute.max_cost_usd: {limit:g}: this could cost {total:.2f} USD{spent}; raise the limit, or lower hours"
        )


def format_bounds(bounds: Sequence[StageBound], spent_usd: float = 0.0) -> str:
    """Return the bounds as a text table."""
    from tuneline.configs.hardware import hardware

    rows = [f"  {'stage':<9} {'hardware':<34} {'hours':>6} {'used':>5} {'USD at most':>11}"]
    for b in bounds:
        hardware_text = f"{b.gpu or 'CPU'}, {b.cores:g} cores, {b.memory_gib:g} GiB"
        note = "" if b.state == "to do" else f"  {b.state}"
        used = f"{b.hours_used:.3g}" if b.hours_used else "–"
        rows.append(f"  {b.stage:<9} {hardware_text:<34} {b.hours:>6.4g} {used:>5} {b.usd_at_most:>11.2f}{note}")
    spent = f"; {spent_usd:.2f} USD already spent" if spent_usd else ""
    rows.append(f"  {'total':<57} {sum(b.usd_at_most for b in bounds):>11.2f}{spent}")
    rows.append(f"  Upper bound from now on, including preemptions and retries; not included: {NOT_IN_IT}.")
    rows.append(f"  Finished stages cost nothing. Prices of {hardware().as_of}.")
    return "\n".join(rows)


def read_stage_states(recipe: Recipe, run: Path) -> dict[str, str]:
    """Return `finished`, `stale` or `to do` for each stage; a stage without a manifest is not imported."""
    has_manifest = {stage: (run / stage / "manifest.json").exists() for stage in STAGES} | {
        "fetch": paths.models().exists()
    }
    states = dict.fromkeys(STAGES, "to do")
    for stage in (stage for stage in STAGES if has_manifest[stage]):
        from tuneline.stages.line import find_finished

        try:
            states[stage] = "finished" if find_finished(stage, recipe, run) else "to do"
        except StaleArtifact:
            states[stage] = "stale"
        except (BadRecipe, NotFound):
            states[stage] = "to do"  # a base without its commit cannot be here
    return states
