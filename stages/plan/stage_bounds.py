"""Hardware, upper bound on cost, and state of each stage before a pipeline run starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneline.configs.compute import PIPELINE_CONTAINER, Compute, Container
from tuneline.configs.recipe import Recipe
from tuneline.core import paths
from tuneline.core.errors import BadRecipe, NotFound, StaleArtifact

STAGES = tuple(name for name, field in Compute.model_fields.items() if isinstance(field.default, Container))
"""In the order they run; `compute` has an entry for each."""


@dataclass(frozen=True)
class StageBound:
    """One stage on Modal, and the most it can take and cost."""

    stage: str
    gpu: str | None
    cores: float
    memory_gib: float
    hours: float
    tries: int
    usd_at_most: float
    state: str = "to do"
    """`to do`; `finished`, which costs nothing; or `stale`: made from other settings."""


def bound_stages(recipe: Recipe, stages: Sequence[str], states: dict[str, str] | None = None) -> list[StageBound]:
    """Return what each stage may cost: price × hours × (1 + retries), at the prices in hardware.yaml.

    Evaluation adds the budget of its hosted targets. The last entry is the pipeline run itself (`walk`), which waits
    for the stages that are not finished.
    """
    bounds = []
    for stage in stages:
        container, state = getattr(recipe.compute, stage), (states or {}).get(stage, "to do")
        hosted_usd = sum(target.budget_usd for target in recipe.evaluate.targets) if stage == "evaluate" else 0.0
        usd = 0.0 if state == "finished" else container.usd_at_most + hosted_usd
        bounds.append(
            StageBound(
                stage=stage,
                gpu=container.gpu,
                cores=container.cores,
                memory_gib=container.memory_gib,
                hours=container.hours,
                tries=container.retries + 1,
                usd_at_most=usd,
                state=state,
            )
        )
    hours = sum(getattr(recipe.compute, bound.stage).hours_at_most for bound in bounds if bound.state != "finished")
    run = StageBound(
        "walk",
        None,
        PIPELINE_CONTAINER.cores,
        PIPELINE_CONTAINER.memory_gib,
        hours,
        1,
        PIPELINE_CONTAINER.usd_per_hour * hours,
    )
    return [*bounds, run] if hours else bounds


def refuse_too_expensive(recipe: Recipe, bounds: Sequence[StageBound]) -> None:
    """Raise BadRecipe if the stages could cost more than the recipe allows."""
    total, limit = sum(bound.usd_at_most for bound in bounds), recipe.compute.max_cost_usd
    if limit is not None and total > limit:
        raise BadRecipe(
            f"compute.max_cost_usd: {limit:g}: this could cost {total:.2f} USD; allow it, or lower hours or retries"
        )


def format_bounds(bounds: Sequence[StageBound]) -> str:
    """Return the bounds as a text table."""
    from tuneline.configs.hardware import hardware

    rows = [f"  {'stage':<9} {'hardware':<34} {'hours':>6} {'tries':>5} {'USD at most':>11}"]
    for b in bounds:
        hardware_text = f"{b.gpu or 'CPU'}, {b.cores:g} cores, {b.memory_gib:g} GiB"
        note = "" if b.state == "to do" else f"  {b.state}"
        rows.append(f"  {b.stage:<9} {hardware_text:<34} {b.hours:>6g} {b.tries:>5} {b.usd_at_most:>11.2f}{note}")
    rows.append(f"  {'together':<57} {sum(b.usd_at_most for b in bounds):>11.2f}")
    rows.append(f"  Stages that are finished cost nothing. Prices of {hardware().as_of}; a bound, not an estimate.")
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
