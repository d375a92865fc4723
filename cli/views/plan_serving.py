"""The serving part of a plan: memory, hardware, speed, and from when on it is cheaper than an API."""

from typing import TYPE_CHECKING

from tuneline.cli.views.units import abbreviate, format_gib, format_range, format_usd

if TYPE_CHECKING:
    from tuneline.stages.plan.serving import ServingPlan


def format_serving(serving: "ServingPlan") -> list[str]:
    """Return the lines on serving, those that say why serving is refused included."""
    memory = f"{format_gib(serving.weights_bytes)} weights + {format_gib(serving.kv_bytes)} KV cache"
    return [
        f"serving as {serving.form}, {serving.streams} × {serving.context:,} tokens",
        f"  memory       {memory}{_format_local_kv_cache(serving)}",
        *_format_hardware(serving),
        *(f"  refused      {reason}" for reason in serving.refused),
    ]


def _format_local_kv_cache(serving: "ServingPlan") -> str:
    if serving.kv_local_bytes >= serving.kv_bytes:
        return ""
    return f" ({format_gib(serving.kv_local_bytes)} if the engine stores only the attention window of local layers)"


def _format_hardware(serving: "ServingPlan") -> list[str]:
    if serving.hardware is None or serving.usd_per_month is None:
        other = ", a smaller serve.type, or `serve: {form: merged}` on GPUs" if serving.form == "gguf" else ""
        return [f"  hardware     no listed hardware fits this; use fewer streams or a shorter context{other}"]
    lines = [f"  hardware     {serving.hardware}: {format_usd(serving.usd_per_month)} USD per month if always on"]
    if serving.tokens_per_second and serving.usd_per_1000_queries:
        low, high = serving.usd_per_1000_queries
        lines.append(
            f"  speed        {format_range(serving.tokens_per_second)} tokens/s per stream, "
            f"{low:.2g} to {high:.2g} USD per thousand queries (1,000 tokens in, 200 out) when busy"
        )
    if serving.flat:
        offers = (
            f"{name} {format_usd(usd)} USD per month" if usd else f"{name} does not fit"
            for name, usd in serving.flat.items()
        )
        lines.append(f"  other hosts  {', '.join(offers)}")
    return lines + _format_break_even(serving)


def _format_break_even(serving: "ServingPlan") -> list[str]:
    tokens_by_kind = ", ".join(f"{abbreviate(tokens)} ({kind})" for kind, tokens in serving.break_even.items())
    lines = [f"  breaks even  above this many API tokens per month: {tokens_by_kind}"]
    if serving.break_even_share is not None:
        verdict = "pays" if serving.break_even_share < 1 else "does not pay"
        lines.append(f"  against your bill: {serving.break_even_share:.0%} of it, so it {verdict}")
    return lines
