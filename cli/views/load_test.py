"""What a served model does under load."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuneline.stages.evaluate.load_testing.guidellm import LoadResult

PERCENTILES = (0.5, 0.95, 0.99)


def format_load(load: "LoadResult") -> str:
    """Return the figures of a load test: latency, time to first token, throughput, memory and cost."""
    failed = f", {load.errors} failed" if load.errors else ""
    lines = [
        f"{load.endpoint} ({load.model}): {load.requests} requests, {load.rate:g} per second, open loop{failed}",
        f"  latency      {_format_percentiles(load.latency)}: from when a request was due to its last token",
        f"  first token  {_format_percentiles(load.first_token)}: from when it was due",
        f"  answered     {load.requests_per_second:.2f} requests and {load.tokens_per_second:.0f} tokens per second",
    ]
    if load.memory_gb is not None:
        lines += [f"  memory       {load.memory_gb:.3f} GB peak resident memory of the server process"]
    engine = f", by {load.engine}" if load.engine else ""
    lines += [f"  measured on  {load.hardware or 'unknown hardware'}{engine}, {load.at:%Y-%m-%d %H:%M} UTC"]
    if load.usd_per_1000_queries is not None:
        lines += [
            f"  cost         {load.usd_per_1000_queries:.4f} USD for 1,000 queries at this rate "
            f"({load.usd_per_hour:.3f} USD per hour)"
        ]
    return "\n".join(lines)


def _format_percentiles(seconds_at: Callable[[float], float]) -> str:
    return ", ".join(f"p{100 * share:.0f} {seconds_at(share):.3f} s" for share in PERCENTILES)
