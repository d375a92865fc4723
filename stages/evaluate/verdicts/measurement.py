"""What is said beside an evaluation's figures: when and where they were measured, by what, and how much they vary."""

from collections import defaultdict
from pathlib import Path

from tuneline.core.artifacts import Artifact
from tuneline.core.formatting import format_label, format_percent
from tuneline.stages.evaluate.engine_versions import format_engine
from tuneline.stages.evaluate.verdicts.repetitions import Spread, measure_spread

NOT_REPEATED = (
    "Intervals only cover the choice of requests. The variation between seeds is not measured; to measure it, "
    "run the same recipe with another train.seed and --run NEW."
)


def describe_measurement(evaluated: Artifact) -> str:
    """Return date, machine and engines of an evaluation, in a sentence."""
    targets_by_engine: dict[str, list[str]] = defaultdict(list)
    for target, engine in evaluated.metrics.get("engines", {}).items():
        targets_by_engine[format_engine(engine)].append(format_label(target))
    engines = "".join(f"; {', '.join(targets)} by {engine}" for engine, targets in targets_by_engine.items())
    return f"Measured {evaluated.manifest.origin}{engines}."


def describe_variation(run: Path, target: str) -> list[str]:
    """Return how much the target's shares vary between runs that differ in their seeds alone, a line for each suite."""
    spreads = measure_spread(run, target)
    return [_format_spread(suite, spread) for suite, spread in spreads.items()] or [NOT_REPEATED]


def _format_spread(suite: str, spread: Spread) -> str:
    machines = f", on {spread.machines} machines" if spread.machines > 1 else ""
    low, high = format_percent(spread.lowest), format_percent(spread.highest)
    return (
        f"{format_label(suite)}, over {spread.runs} runs that differ in their seeds alone{machines}: mean "
        f"{format_percent(spread.mean)}, standard deviation {100 * spread.deviation:.1f} points ({low} to {high})."
    )
