"""Serving before it starts: what it needs, costs and gives, and whether the engine can load what training makes."""

import math
from dataclasses import dataclass

from tuneline.configs.hardware import GIB, HOURS_A_MONTH, Range, hardware
from tuneline.configs.models import Shape
from tuneline.configs.recipe import Recipe
from tuneline.core.errors import BadRecipe
from tuneline.engines.vllm.lora_ranks import LORA_RANKS, MAX_LORA_RANK
from tuneline.stages.plan.memory import adapter_parameters

FIREWORKS_RANKS = (4, 64)
"""docs.fireworks.ai, "Importing fine-tuned models"."""
GGUF_BITS = {
    "F16": 16.0,
    "BF16": 16.0,
    "Q8_0": 8.50,
    "Q6_K": 6.56,
    "Q5_K_M": 5.70,
    "Q4_K_M": 4.89,
    "Q4_0": 4.66,
}
"""Of a parameter, on Llama 3.1 8B (llama.cpp, tools/quantize/README.md)."""
DECODED = (0.4, 0.8)
"""Of the memory's speed: writing a token reads every active weight once."""
CPU_GB_PER_SECOND = (10.0, 40.0)
"""Memory of a shared machine with a few cores."""
TOKEN_S = (0.0005, 0.003)
"""What an engine does around each token, however small the model."""
WORKSPACE = 0.1
"""Of a GPU's memory, for the engine itself; vLLM leaves it free too (`gpu_memory_utilization` 0.9)."""
QUERY_TOKENS = (1000, 200)
"""In and out, of the query whose cost is told."""
PREFILL = 20
"""How many times faster a prompt's token is read than an answer's is written, at least."""


@dataclass(frozen=True)
class Serving:
    """One server that holds the model and its streams."""

    form: str
    context: int
    streams: int
    weights_bytes: float
    kv_bytes: float
    kv_local_bytes: float
    """The same where the engine keeps of local layers only what they see."""
    hardware: str | None
    """None: nothing we know of holds it."""
    usd_per_month: float | None
    """Up all day on Modal."""
    tokens_per_second: Range | None
    """Of one stream."""
    usd_per_1000_queries: Range | None
    break_even: dict[str, float]
    """Tokens a month above which this is cheaper than an API, by the API's kind."""
    break_even_share: float | None
    """Of the API bill the user told: the monthly price over it; below 1 it pays."""
    flat: dict[str, float | None]
    """USD a month of offers at a flat price, None where one does not hold it; of a GGUF alone, they have no GPU."""
    refused: tuple[str, ...]
    """Why the engine, or a publishing target, would not load it; the first words say which."""


def serving(
    recipe: Recipe, shape: Shape, context: int | None = None, streams: int = 1, api_usd: float | None = None
) -> Serving:
    """For `streams` requests at a time of `context` tokens; `api_usd` is what an API costs the user a month."""
    form, context = recipe.serve.form, context or recipe.serve.context
    weights = _weights(recipe, shape)
    kv = streams * shape.kv_bytes(context)
    needed = (weights + kv) * (1 + WORKSPACE)
    where, usd_hour, speed = _where(recipe, shape, needed, weights)
    month = None if usd_hour is None else usd_hour * HOURS_A_MONTH
    return Serving(
        form=form,
        context=context,
        streams=streams,
        weights_bytes=weights,
        kv_bytes=kv,
        kv_local_bytes=streams * shape.kv_bytes(context, local=True),
        hardware=where,
        usd_per_month=month,
        tokens_per_second=speed,
        usd_per_1000_queries=None if usd_hour is None or speed is None else _queries(usd_hour, speed, streams),
        break_even={} if month is None else _break_even(month),
        break_even_share=None if month is None or not api_usd else month / api_usd,
        flat=_flat(needed) if form == "gguf" else {},
        refused=(*unservable(recipe), *unpublishable(recipe)),
    )


def unservable(recipe: Recipe) -> tuple[str, ...]:
    """Why the engine of `serve.form` cannot load what this recipe trains; empty if it can."""
    train = recipe.train.model_dump()
    if recipe.serve.form == "merged" and recipe.convert.format != "safetensors":
        return (f"serve.form: merged: convert.format: {recipe.convert.format} makes no merged checkpoint",)
    if recipe.serve.form != "adapter":
        return ()
    if train["method"] == "full":
        return ("serve.form: adapter: train.method: full trains the model itself, and makes no adapter",)
    found = []
    if train["rank"] > MAX_LORA_RANK:
        allowed = ", ".join(str(rank) for rank in LORA_RANKS if rank <= MAX_LORA_RANK)
        found.append(f"serve.form: adapter: rank {train['rank']}: our vLLM takes at most {MAX_LORA_RANK} ({allowed})")
    if moved := {"router", "experts"} & set(train["targets"]):
        found.append(f"serve.form: adapter: vLLM loads no adapter of {' or '.join(sorted(moved))}")
    if saved := train.get("modules_to_save"):
        found.append(f"serve.form: adapter: vLLM loads no modules_to_save ({', '.join(saved)})")
    return tuple(found)


def unpublishable(recipe: Recipe) -> tuple[str, ...]:
    """Which publishing targets would refuse the adapter, and why."""
    low, high = FIREWORKS_RANKS
    if low <= recipe.train.rank <= high:
        return ()
    return (f"publishing to Fireworks: rank {recipe.train.rank}: Fireworks takes {low}–{high}; merge it first",)


def refuse_unservable(recipe: Recipe) -> None:
    """Raise BadRecipe if the engine cannot load what this recipe trains: said before training, not after."""
    if reasons := unservable(recipe):
        adapter = recipe.serve.form == "adapter"
        remedy = "`serve: {form: merged}`, or change train" if adapter else "`convert: {format: safetensors}`"
        raise BadRecipe("\n".join([*reasons, f"write {remedy}"]))


def _weights(recipe: Recipe, shape: Shape) -> float:
    if recipe.serve.form == "gguf":
        return shape.text * GGUF_BITS[recipe.serve.type] / 8
    adapter = adapter_parameters(shape, recipe.train.rank, recipe.train.targets)
    return 2.0 * (shape.total + (adapter if recipe.serve.form == "adapter" else 0))


def _where(
    recipe: Recipe, shape: Shape, needed: float, weights: float
) -> tuple[str | None, float | None, Range | None]:
    """(hardware, USD an hour, tokens a second of one stream): the cheapest on Modal that holds it."""
    table, active = hardware(), weights * shape.active / shape.text
    if recipe.serve.form == "gguf" and needed <= 64 * GIB:  # llama.cpp serves from the CPU's memory
        cores, memory = 4.0, math.ceil(needed / GIB) + 2
        an_hour = 3600 * table.usd_per_second(None, cores, memory)
        return f"CPU, {cores:g} cores, {memory} GiB", an_hour, _speed(active, CPU_GB_PER_SECOND)
    offers = []
    for kind, gpu in table.gpus.items():
        for count in range(1, gpu.most + 1):
            if needed <= count * table.usable_bytes(kind) and shape.kv_heads % count == 0:
                offers.append((3600 * table.usd_per_second(f"{kind}:{count}", 4, 32), kind, count))
                break
    if not offers:
        return None, None, None
    an_hour, kind, count = min(offers)
    low, high = (count * share * table.chips[kind].gb_per_second for share in DECODED)
    return (f"{kind}:{count}" if count > 1 else kind), an_hour, _speed(active, (low, high))


def _speed(active_bytes: float, gb_per_second: Range) -> Range:
    """Tokens a second of one stream."""
    low, high = gb_per_second
    return 1 / (active_bytes / low / 1e9 + TOKEN_S[1]), 1 / (active_bytes / high / 1e9 + TOKEN_S[0])


def _flat(needed: float) -> dict[str, float | None]:
    offers = {name: flat for name, flat in hardware().flat.items() if flat.memory_gib}
    return {name: flat.usd_per_month if needed <= flat.memory_gib * GIB else None for name, flat in offers.items()}


def _queries(usd_hour: float, speed: Range, streams: int) -> Range:
    """USD for a thousand queries when all streams are busy."""
    tokens_in, tokens_out = QUERY_TOKENS
    work = tokens_out + tokens_in / PREFILL
    cheap, dear = (1000 * usd_hour * work / each / streams / 3600 for each in reversed(speed))
    return cheap, dear


def _break_even(month: float) -> dict[str, float]:
    """Tokens a month, in the proportion of the query above."""
    tokens_in, tokens_out = QUERY_TOKENS
    prices = hardware().api.usd_per_million.items()
    blend = {kind: (tokens_in * into + tokens_out * out) / (tokens_in + tokens_out) for kind, (into, out) in prices}
    return {kind: month / usd * 1e6 for kind, usd in blend.items()}
