"""The training part of a plan: GPUs that hold the training, with memory, hours and cost."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tuneline.cli.views.units import format_range
from tuneline.configs.hardware import GIB

if TYPE_CHECKING:
    from tuneline.stages.plan.training import TrainingOption

WAYS_SHOWN = 6
"""Rows of the table; the way the recipe asks for and providers without an offer among these follow in any case."""


def format_training_options(ways: Sequence["TrainingOption"]) -> list[str]:
    """Return a line for each way to train, the cheapest first, and the memory of the first one in parts."""
    if not ways:
        return ["  not even one row fits on any hardware in configs/hardware.yaml; lower data.max_tokens, or use qlora"]
    shown = _select_ways(ways)
    lines = [
        f"  {'GPUs':<14} {'how':<8} {'rows':>4} {'GiB each':>8} {'hours':>12}  USD, cheapest offer first",
        *map(_format_way, shown),
    ]
    if len(ways) > len(shown):
        lines.append(f"  and {len(ways) - len(shown)} more in --json")
    parts = dataclasses.asdict(shown[0].memory)
    memory = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items() if size)
    lines.append(f"  GiB of {format_gpus(shown[0])}: {memory}")
    if any(not cost.verified for way in shown for cost in way.costs):
        lines.append("  * price not taken from the provider's own page: see configs/hardware.yaml")
    return lines


def format_gpus(way: "TrainingOption") -> str:
    """Return the GPU's kind, followed by `:COUNT` for more than one."""
    return f"{way.gpu}:{way.count}" if way.count > 1 else way.gpu


def _select_ways(ways: Sequence["TrainingOption"]) -> list["TrainingOption"]:
    shown = list(ways[:WAYS_SHOWN])
    for way in ways[WAYS_SHOWN:]:
        shown_providers = {cost.provider for shown_way in shown for cost in shown_way.costs}
        if way.asked or {cost.provider for cost in way.costs} - shown_providers:
            shown.append(way)
    return shown


def _format_way(way: "TrainingOption") -> str:
    hours = format_range(way.hours) if way.hours else "unknown"
    return (
        f"  {format_gpus(way):<14} {way.how:<8} {way.rows:>4} {way.memory.total / GIB:>8.1f} {hours:>12}  "
        f"{_format_costs(way)}{'  <- compute.train' if way.asked else ''}"
    )


def _format_costs(way: "TrainingOption") -> str:
    offers = (f"{cost.provider} {format_range(cost.usd)}{'' if cost.verified else '*'}" for cost in way.costs)
    return ", ".join(offers) or "not offered"
