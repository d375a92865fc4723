"""Base models: the list, one in detail, which fit a machine, and the selection guide."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tuneline.cli.views.text_grid import format_grid
from tuneline.cli.views.units import abbreviate
from tuneline.configs.hardware import GIB
from tuneline.configs.models import registry
from tuneline.core.formatting import format_bytes

if TYPE_CHECKING:
    from tuneline.stages.fetch.local_bases import LocalBase
    from tuneline.stages.plan.base_fit import BaseFit, Machine
    from tuneline.stages.plan.base_guide import Advice


def format_bases(local_bases: Sequence["LocalBase"], partial_downloads: Sequence[tuple[str, int]] = ()) -> str:
    """Return up to three tables: bases in the registry, on this machine, and partial downloads as (name, bytes)."""
    parts = [_format_registry({base.known_as for base in local_bases})]
    if local_bases:
        rows = [
            [
                b.slug,
                format_bytes(b.bytes),
                f"{b.last_used:%Y-%m-%d}",
                "pinned" if b.pinned else "",
                ", ".join(b.runs),
            ]
            for b in local_bases
        ]
        parts.append(format_grid(["here", "size", "last used", "", "runs"], rows))
    if partial_downloads:
        rows = [[slug, format_bytes(size), "rerun the command to resume"] for slug, size in partial_downloads]
        parts.append(format_grid(["not whole", "so far", ""], rows))
    return "\n\n".join(parts)


def _format_registry(local_keys: set[str | None]) -> str:
    table = registry()
    rows = []
    for key, model in table.models.items():
        shape = table.shape(key)
        size = abbreviate(shape.total) + (f" ({abbreviate(shape.active)})" if shape.experts else "")
        gate = "gated" if model.gated else "open"
        is_here = "here" if key in local_keys else ""
        rows.append([key, model.kind, size, f"{model.context:,}", model.licence, gate, table.support(key), is_here])
    return format_grid(["name", "kind", "size (active)", "context", "licence", "hub", "works", ""], rows)


def format_base(key: str) -> str:
    """Return what the registry says of a base, and the memory in GiB that running and training it take."""
    from tuneline.core.pins import read_pin
    from tuneline.stages.plan.base_fit import CONTEXT, RUN_BITS, TRAIN_WORKLOADS, estimate_run_bytes
    from tuneline.stages.plan.memory import estimate_peak_memory

    table = registry()
    model, shape = table.models[key], table.shape(key)
    heads = f"{shape.heads} heads over {shape.kv_heads} of keys and values, of {shape.head_dim}"
    experts = f", {shape.experts} experts, {shape.experts_per_token} per token" if shape.experts else ""
    page = f", https://huggingface.co/{model.hub}" if model.hub else ""
    revision = (read_pin(model.hub) if model.hub else None) or model.revision
    run = ", ".join(f"{name} {estimate_run_bytes(shape, bits) / GIB:,.1f}" for name, bits in RUN_BITS.items())
    train = ", ".join(
        f"{name} {estimate_peak_memory(shape, work).total / GIB:,.1f}" for name, work in TRAIN_WORKLOADS.items()
    )
    return "\n".join(
        [
            f"{key}: {model.kind}, {table.support(key)}{page}",
            f"  revision     {revision}",
            f"  licence      {model.licence}{', must be accepted on its page' if model.gated else ''}",
            f"  parameters   {shape.total:,}, {shape.active:,} active",
            f"  shape        {shape.layers} layers of {shape.hidden}, {heads}, feed-forward {shape.ffn}{experts}",
            f"  context      {model.context:,} tokens, vocabulary {shape.vocabulary:,}",
            f"  template     {model.template or 'none'}, tool parser {model.tool_parser or 'none'}",
            f"  GiB to run   {run} (one stream of {CONTEXT:,} tokens)",
            f"  GiB to train {train} (rank 16, one row of 2,048 tokens)"
            if table.is_trainable(key)
            else f"  GiB to train Tuneline does not train the {shape.family} family",
        ]
    )


def format_fits(machine: "Machine", fits: Sequence["BaseFit"]) -> str:
    """Return the bases a machine runs and trains, and in how many bits."""
    size = f"{machine.gpus} × {machine.gpu_bytes / GIB:.1f}" if machine.gpus else f"{machine.cpu_bytes / GIB:.1f}"
    rows = [[fit.model, fit.run or "no", fit.train or "no"] for fit in fits]
    return f"{machine.name}: {size} GiB usable\n" + format_grid(["base", "runs at", "trains"], rows)


def format_guide(guide: Sequence["Advice"]) -> str:
    """Return the selection guide, or a part of it."""
    rows = [[advice.constraint, ", ".join(advice.bases), advice.reason] for advice in guide]
    return format_grid(["if you have or need", "take", "because"], rows, 50)
