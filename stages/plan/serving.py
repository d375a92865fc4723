"""Plan of serving: memory, hardware, speed and cost of one server, and what cannot be loaded or published."""

import math
from dataclasses import dataclass

from tuneline.configs.cloud import cloud
from tuneline.configs.hardware import GIB, HOURS_A_MONTH, Range, hardware
from tuneline.configs.hosts import find_closed_hosts
from tuneline.configs.models import Shape
from tuneline.configs.recipe import Recipe
from tuneline.core.errors import BadRecipe
from tuneline.engines.vllm.lora_ranks import LORA_RANKS, MAX_LORA_RANK
from tuneline.stages.plan.endpoint_fit import find_endpoint_problems
from tuneline.stages.plan.memory import count_adapter_parameters

GGUF_BITS = {
    "F16": 16.0,
    "BF16": 16.0,
    "Q8_0": 8.50,
    "Q6_K": 6.56,
    "Q5_K_M": 5.70,
    "Q4_K_M": 4.89,
    "Q4_0": 4.66,
}
"""Bits per parameter, on Llama 3.1 8B (llama.cpp, tools/quantize/README.md)."""
BANDWIDTH_SHARE = (0.4, 0.8)
"""Share of the memory's bandwidth that decoding reaches: each token reads every active weight once."""
CPU_GB_PER_SECOND = (10.0, 40.0)
"""Memory bandwidth of a shared machine with a few cores."""
OVERHEAD_S = (0.0005, 0.003)
"""Time an engine takes per token beside reading weights, however small the model."""
WORKSPACE = 0.1
"""Share of a GPU's memory for the engine itself; vLLM leaves it free too (`gpu_memory_utilization` 0.9)."""
MAX_CPU_BYTES = 64 * GIB
"""Most that llama.cpp is planned to hold, on a CPU: a token that reads more takes seconds (`CPU_GB_PER_SECOND`)."""
CPU_CORES, GPU_CORES, GPU_MEMORY_GIB = 4.0, 4, 32
"""Of the containers that serve on a CPU and on a GPU."""
QUERY_TOKENS = (1000, 200)
"""Input and output tokens of the query whose cost is reported."""
PREFILL_SPEEDUP = 20
"""How many times faster a prompt token is processed than an output token is generated, at least."""


@dataclass(frozen=True)
class ServingPlan:
    """One server that holds the model and its streams."""

    form: str
    context: int
    streams: int
    weights_bytes: float
    kv_bytes: float
    kv_local_bytes: float
    """The same for an engine that caches for local layers only what they attend to."""
    hardware: str | None
    """None: nothing in hardware.yaml holds it."""
    usd_per_month: float | None
    """Up all day on Modal."""
    tokens_per_second: Range | None
    """Per stream."""
    usd_per_1000_queries: Range | None
    break_even: dict[str, float]
    """Tokens per month above which this is cheaper than an API, by kind of API."""
    break_even_share: float | None
    """The monthly price as a share of the API bill that the user gave; below 1 it pays."""
    flat: dict[str, float | None]
    """USD per month of flat-price offers, None where one is too small; for GGUF only, as they have no GPU."""
    refused: tuple[str, ...]
    """Why the engine, or a publishing target, would not load it; each begins with the recipe key or the target."""


@dataclass(frozen=True)
class _Server:
    """The cheapest hardware on Modal that holds the model."""

    hardware: str
    usd_per_hour: float
    tokens_per_second: Range
    """Per stream."""


def plan_serving(
    recipe: Recipe, shape: Shape, context: int | None = None, streams: int = 1, api_usd: float | None = None
) -> ServingPlan:
    """Return the plan for `streams` concurrent requests of `context` tokens.

    `api_usd` is what an API costs the user per month.
    """
    form, context = recipe.serve.form, context or recipe.serve.context
    weights, kv = _estimate_weights_bytes(recipe, shape), streams * shape.kv_bytes(context)
    required = (weights + kv) * (1 + WORKSPACE)
    server = _find_server(recipe, shape, required, weights)
    month = server.usd_per_hour * HOURS_A_MONTH if server else None
    return ServingPlan(
        form=form,
        context=context,
        streams=streams,
        weights_bytes=weights,
        kv_bytes=kv,
        kv_local_bytes=streams * shape.kv_bytes(context, local=True),
        hardware=server.hardware if server else None,
        usd_per_month=month,
        tokens_per_second=server.tokens_per_second if server else None,
        usd_per_1000_queries=_price_queries(server, streams) if server else None,
        break_even={} if month is None else _find_break_even(month),
        break_even_share=None if month is None or not api_usd else month / api_usd,
        flat=_find_flat_offers(required) if form == "gguf" else {},
        refused=(
            *find_serving_problems(recipe),
            *find_closed_hosts(recipe),
            *find_endpoint_problems(recipe, cloud().endpoint, shape),
        ),
    )


def find_serving_problems(recipe: Recipe) -> tuple[str, ...]:
    """Return why the engine of `serve.form` cannot load what this recipe trains; empty if it can."""
    train = recipe.train.model_dump()
    if recipe.serve.form == "merged" and recipe.convert.format != "safetensors":
        return (f"serve.form: merged: convert.format: {recipe.convert.format} does not write a merged checkpoint",)
    if recipe.serve.form != "adapter":
        return ()
    if train["method"] == "full":
        return ("serve.form: adapter: train.method: full trains the model itself and writes no adapter",)
    problems = []
    if train["rank"] > MAX_LORA_RANK:
        allowed = ", ".join(str(rank) for rank in LORA_RANKS if rank <= MAX_LORA_RANK)
        problems.append(
            f"serve.form: adapter: rank {train['rank']}: our vLLM accepts at most {MAX_LORA_RANK} ({allowed})"
        )
    if unsupported := {"router", "experts"} & set(train["targets"]):
        problems.append(f"serve.form: adapter: vLLM loads no adapter of {' or '.join(sorted(unsupported))}")
    if saved := train.get("modules_to_save"):
        problems.append(f"serve.form: adapter: vLLM loads no modules_to_save ({', '.join(saved)})")
    return tuple(problems)


def refuse_unservable(recipe: Recipe) -> None:
    """Raise BadRecipe if the engine cannot load what this recipe trains; called before training, not after."""
    if problems := find_serving_problems(recipe):
        adapter = recipe.serve.form == "adapter"
        remedy = "`serve: {form: merged}`, or change train" if adapter else "`convert: {format: safetensors}`"
        raise BadRecipe("\n".join([*problems, f"write {remedy}"]))


def _estimate_weights_bytes(recipe: Recipe, shape: Shape) -> float:
    if recipe.serve.form == "gguf":
        return shape.text * GGUF_BITS[recipe.serve.type] / 8
    adapter = count_adapter_parameters(shape, recipe.train.rank, recipe.train.targets)
    return 2.0 * (shape.total + (adapter if recipe.serve.form == "adapter" else 0))


def _find_server(recipe: Recipe, shape: Shape, required: float, weights: float) -> _Server | None:
    """Return the cheapest server on Modal with `required` bytes that the form's engine uses; None if there is none."""
    table, active = hardware(), weights * shape.active / shape.text
    if recipe.serve.form == "gguf":  # our llama.cpp has no CUDA: a GPU would do nothing
        if required > MAX_CPU_BYTES:
            return None
        memory_gib = math.ceil(required / GIB) + 2
        usd_per_hour = 3600 * table.usd_per_second(None, CPU_CORES, memory_gib)
        name = f"CPU, {CPU_CORES:g} cores, {memory_gib} GiB"
        return _Server(name, usd_per_hour, _estimate_stream_speed(active, CPU_GB_PER_SECOND))
    offers = []
    for kind, gpu in table.gpus.items():
        for count in range(1, gpu.most + 1):
            if required <= count * table.usable_bytes(kind) and shape.kv_heads % count == 0:
                usd_per_second = table.usd_per_second(f"{kind}:{count}", GPU_CORES, GPU_MEMORY_GIB)
                offers.append((3600 * usd_per_second, kind, count))
                break
    if not offers:
        return None
    usd_per_hour, kind, count = min(offers)
    low, high = (count * share * table.chips[kind].gb_per_second for share in BANDWIDTH_SHARE)
    return _Server(f"{kind}:{count}" if count > 1 else kind, usd_per_hour, _estimate_stream_speed(active, (low, high)))


def _estimate_stream_speed(active_bytes: float, gb_per_second: Range) -> Range:
    """Return the tokens per second of one stream."""
    low, high = gb_per_second
    return 1 / (active_bytes / low / 1e9 + OVERHEAD_S[1]), 1 / (active_bytes / high / 1e9 + OVERHEAD_S[0])


def _find_flat_offers(required: float) -> dict[str, float | None]:
    offers = {name: offer for name, offer in hardware().flat.items() if offer.memory_gib}
    return {name: offer.usd_per_month if required <= offer.memory_gib * GIB else None for name, offer in offers.items()}


def _price_queries(server: _Server, streams: int) -> Range:
    """Return the USD for a thousand queries when all streams are busy."""
    input_tokens, output_tokens = QUERY_TOKENS
    work = output_tokens + input_tokens / PREFILL_SPEEDUP
    low, high = (
        1000 * server.usd_per_hour * work / speed / streams / 3600 for speed in reversed(server.tokens_per_second)
    )
    return low, high


def _find_break_even(usd_per_month: float) -> dict[str, float]:
    """Return tokens per month, with input and output in the proportion of the query above."""
    input_tokens, output_tokens = QUERY_TOKENS
    total = input_tokens + output_tokens
    prices = hardware().api.usd_per_million.items()
    blended = {kind: (input_tokens * usd_in + output_tokens * usd_out) / total for kind, (usd_in, usd_out) in prices}
    return {kind: usd_per_month / usd * 1e6 for kind, usd in blended.items()}
