"""Speed, time and cost of a training on given hardware, each as a range of lowest and highest."""

import math
from dataclasses import dataclass

from tuneline.configs.hardware import Range, hardware
from tuneline.configs.models import Shape
from tuneline.configs.recipe import Recipe
from tuneline.stages.plan.memory import Workload
from tuneline.stages.plan.step_flops import estimate_flops_per_token


@dataclass(frozen=True)
class Cost:
    """Cost of one training at one provider."""

    provider: str
    usd: Range
    as_of: str
    verified: bool


def estimate_speed(recipe: Recipe, shape: Shape, kind: str, count: int, work: Workload) -> Range:
    """Return tokens per second on `count` GPUs of `kind`; on the CPU if `count` is 0."""
    speed, flops = hardware().speed, estimate_flops_per_token(shape, work)
    if not count:
        cores = recipe.compute.threads or recipe.compute.train.cores
        low, high = (cores * 1e9 * gflops for gflops in speed.cpu_gflops_per_core)
        return low / flops, high / flops
    at_peak = count * hardware().chips[kind].tflops * 1e12 / flops
    sparse, together = speed.experts if shape.experts else (1.0, 1.0), speed.gpus if count > 1 else (1.0, 1.0)
    return multiply_ranges((at_peak, at_peak), getattr(speed, work.method), sparse, together)


def estimate_hours(shape: Shape, count: int, tokens: Range, tokens_per_second: Range) -> Range:
    """Return the hours for `tokens` in all, including the time until the first step."""
    startup = _estimate_startup(shape, count)
    slowest, fastest = tokens_per_second
    working = multiply_ranges(tokens, (1 / fastest / 3600, 1 / slowest / 3600))
    return working[0] + startup[0], working[1] + startup[1]


def estimate_costs(recipe: Recipe, kind: str, count: int, hours: Range) -> tuple[Cost, ...]:
    """Return the cost at every provider that offers these GPUs, the cheapest first."""
    costs = (
        _price_at_modal(recipe, kind, count, hours)
        + _price_by_hour(kind, count, hours)
        + _price_by_month(kind, count, hours)
    )
    return tuple(sorted(costs, key=lambda cost: sum(cost.usd)))


def multiply_ranges(*ranges: Range) -> Range:
    """Return the product of independent ranges: their widths add as errors do, not end to end."""
    middle = math.prod(math.sqrt(low * high) for low, high in ranges)
    width = math.exp(math.sqrt(sum((math.log(high / low) / 2) ** 2 for low, high in ranges)))
    return middle / width, middle * width


def _estimate_startup(shape: Shape, count: int) -> Range:
    """Return the hours until the first step: to get a machine, and to read the weights in 16 bit."""
    speed = hardware().speed
    if not count:
        return 0.0, 0.0
    low, high = (2 * shape.text / 1e9 / gb_per_second for gb_per_second in reversed(speed.load_gb_per_second))
    return speed.wait_minutes[0] / 60 + low / 3600, speed.wait_minutes[1] / 60 + high / 3600


def _price_at_modal(recipe: Recipe, kind: str, count: int, hours: Range) -> list[Cost]:
    table, container = hardware(), recipe.compute.train
    if count and not (kind in table.gpus and count <= table.gpus[kind].most):
        return []
    gpu = f"{kind}:{count}" if count else None
    usd_per_hour = 3600 * table.usd_per_second(gpu, container.cores, container.memory_gib)
    return [Cost("modal", (hours[0] * usd_per_hour, hours[1] * usd_per_hour), str(table.as_of), verified=True)]


def _price_by_hour(kind: str, count: int, hours: Range) -> list[Cost]:
    costs = []
    for name, provider in hardware().elsewhere.items():
        if kind in provider.usd_per_hour:
            rented = max(count, provider.only.get(kind, 0))
            usd = multiply_ranges(hours, provider.usd_per_hour[kind], (rented, rented))
            costs.append(Cost(name, usd, str(provider.as_of), provider.verified))
    return costs


def _price_by_month(kind: str, count: int, hours: Range) -> list[Cost]:
    costs = []
    for name, offer in hardware().flat.items():
        if kind in offer.hours and count == 1:
            fewest, most = offer.hours[kind]
            months = math.ceil(hours[0] / most), math.ceil(hours[1] / fewest)
            usd = (months[0] * offer.usd_per_month, months[1] * offer.usd_per_month)
            costs.append(Cost(name, usd, str(offer.as_of), offer.verified))
    return costs
