"""What a gateway's metrics say at one moment: requests and tokens so far, its queue, and what its engines tell."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

ENGINE_FIGURES = {
    "vllm:kv_cache_usage_perc": "KV cache",
    "vllm:gpu_cache_usage_perc": "KV cache",
    "vllm:num_requests_running": "running",
    "llamacpp:requests_processing": "running",
    "vllm:num_requests_waiting": "waiting",
    "llamacpp:requests_deferred": "waiting",
    "DCGM_FI_DEV_GPU_UTIL": "GPU use, %",
    "DCGM_FI_DEV_FB_USED": "GPU memory, MiB",
}
"""Engines' own metrics that are shown, by what they are called here: vLLM's, llama-server's, NVIDIA's exporter's."""
SHARES = ("KV cache",)
"""Figures from 0 to 1."""


@dataclass
class GatewayState:
    """One look at `/metrics`."""

    requests: float = 0.0
    """Since the gateway started, as `errors` and `tokens`."""
    errors: float = 0.0
    tokens: float = 0.0
    waiting: float = 0.0
    active: float = 0.0
    budgets_left_usd: dict[str, float] = field(default_factory=dict)
    """Target → what is left of its budget of today."""
    broken: list[str] = field(default_factory=list)
    """Targets whose circuit breaker is open: they are passed over."""
    engines: dict[str, dict[str, float]] = field(default_factory=dict)
    """Engine → figures of `ENGINE_FIGURES`."""


def parse_state(text: str) -> GatewayState:
    """Return what metrics in Prometheus' text format say.

    Raises:
        ValueError: they are no metrics.
    """
    state = GatewayState()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if math.isfinite(sample.value):
                _add(state, sample.name, sample.labels, sample.value)
    return state


def _add(state: GatewayState, name: str, labels: dict[str, str], value: float) -> None:
    if name == "tuneline_requests_total":
        state.requests += value
        state.errors += value if labels.get("outcome") in ("error", "interrupted") else 0.0
    elif name == "tuneline_tokens_total" and labels.get("kind") == "completion":
        state.tokens += value
    elif name == "tuneline_waiting":
        state.waiting = value
    elif name == "tuneline_active":
        state.active = value
    elif name == "tuneline_budget_left_usd":
        state.budgets_left_usd[labels.get("target", "")] = value
    elif name == "tuneline_breaker_open" and value == 1:
        state.broken.append(labels.get("target", ""))
    elif figure := ENGINE_FIGURES.get(name):
        figures = state.engines.setdefault(labels.get("engine", ""), {})
        figures[figure] = figures.get(figure, 0.0) + value


def describe_engines(state: GatewayState) -> list[tuple[str, str]]:
    """Return each engine with its figures in a line."""
    return [(engine, " · ".join(_format(figures.items()))) for engine, figures in state.engines.items()]


def _format(figures: Iterable[tuple[str, float]]) -> list[str]:
    return [f"{name} {value:.0%}" if name in SHARES else f"{name} {value:,.0f}" for name, value in figures]
