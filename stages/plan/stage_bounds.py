"""The whole line before it starts: each stage's hardware and bound, and what is finished already."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneline.configs.compute import PIPELINE_CONTAINER, Compute, Container
from tuneline.configs.recipe import Recipe
from tuneline.core import paths
from tuneline.core.errors import BadRecipe, NotFound, StaleArtifact

STAGES = tuple(name for name, field in Compute.model_fields.items() if isinstance(field.default, Container))
"""In their order: `compute` has an entry for each."""


@dataclass(frozen=True)
class Bound:
    """One stage on Modal, and the most it can take."""

    stage: str
    gpu: str | None
    cores: float
    memory_gib: float
    hours: float
    tries: int
    usd_at_most: float
    state: str = "to do"
    """Or `finished`, which costs nothing; or `stale`: made from other settings."""


def bounds(recipe: Recipe, stages: Sequence[str], states: dict[str, str] | None = None) -> list[Bound]:
    """What each stage may cost: price × hours × (1 + retries), prices from hardware.yaml; and what evaluation buys.

    Last stands the walk, which waits for those that are not finished.
    """
    found = []
    for stage in stages:
        asked, state = getattr(recipe.compute, stage), (states or {}).get(stage, "to do")
        bought = sum(target.budget_usd for target in recipe.evaluate.targets) if stage == "evaluate" else 0.0
        usd = 0.0 if state == "finished" else asked.usd_at_most + bought
        found.append(Bound(stage, asked.gpu, asked.cores, asked.memory_gib, asked.hours, asked.retries + 1, usd, state))
    hours = sum(getattr(recipe.compute, bound.stage).hours_at_most for bound in found if bound.state != "finished")
    walk = Bound(
        "walk",
        None,
        PIPELINE_CONTAINER.cores,
        PIPELINE_CONTAINER.memory_gib,
        hours,
        1,
        PIPELINE_CONTAINER.usd_per_hour * hours,
    )
    return [*found, walk] if hours else found


def refuse_too_dear(recipe: Recipe, line: Sequence[Bound]) -> None:
    """Raise BadRecipe if the line could cost more than the recipe allows."""
    total, most = sum(bound.usd_at_most for bound in line), recipe.compute.max_cost_usd
    if most is not None and total > most:
        raise BadRecipe(
            f"compute.max_cost_usd: {most:g}: this could cost {total:.2f} USD; allow it, or lower hours or retries"
        )


def table(line: Sequence[Bound]) -> str:
    """The bounds as text."""
    from tuneline.configs.hardware import hardware

    rows = [f"  {'stage':<9} {'hardware':<34} {'hours':>6} {'tries':>5} {'USD at most':>11}"]
    for b in line:
        where = f"{b.gpu or 'CPU'}, {b.cores:g} cores, {b.memory_gib:g} GiB"
        note = "" if b.state == "to do" else f"  {b.state}"
        rows.append(f"  {b.stage:<9} {where:<34} {b.hours:>6g} {b.tries:>5} {b.usd_at_most:>11.2f}{note}")
    rows.append(f"  {'together':<57} {sum(b.usd_at_most for b in line):>11.2f}")
    rows.append(f"  Stages that are finished cost nothing. Prices of {hardware().as_of}; a bound, not an estimate.")
    return "\n".join(rows)


def states(recipe: Recipe, run: Path) -> dict[str, str]:
    """`finished`, `stale` or `to do` for each stage; imports nothing where there is nothing."""
    there = {stage: (run / stage / "manifest.json").exists() for stage in STAGES} | {"fetch": paths.models().exists()}
    found = dict.fromkeys(STAGES, "to do")
    for stage in (stage for stage in STAGES if there[stage]):
        from tuneline.stages.line import find_finished

        try:
            found[stage] = "finished" if find_finished(stage, recipe, run) else "to do"
        except StaleArtifact:
            found[stage] = "stale"
        except (BadRecipe, NotFound):
            found[stage] = "to do"  # a base without its commit cannot be here
    return found
