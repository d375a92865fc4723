"""Plans and models as text; `cli/` uses it. Plain strings: rich's tables take longer to import than a plan."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tuneline.configs.hardware import GIB, Range

if TYPE_CHECKING:
    from tuneline.stages.doctor import Finding
    from tuneline.stages.evaluate.load_testing.guidellm import Load
    from tuneline.stages.evaluate.verdicts.ratings import Preference
    from tuneline.stages.fetch.local_bases import LocalBase
    from tuneline.stages.plan import Plan
    from tuneline.stages.plan.base_fit import Fit, Machine
    from tuneline.stages.plan.training import Way

WAYS_SHOWN = 6
GIVES = {
    "gguf": ("a file you keep, on any machine", "speed with many users, and the last bits of quality"),
    "adapter": ("the adapter is yours, the base is shared", "needs a GPU that stays up, or a host that takes adapters"),
    "merged": ("weights, engine and data are yours", "several GPUs to pay for and to look after"),
}
"""Of a serving form: what one controls, what one gives up."""


def plan_text(plan: "Plan") -> str:
    """One recipe's plan."""
    training, serving = plan.training, plan.serving
    parts = [
        f"{plan.recipe}: {plan.base}",
        f"  parameters   {_many(training.parameters_total)}, {_many(training.parameters_active)} active, "
        f"{_many(training.parameters_trained)} trained",
        f"  data         {_data(plan)}",
        f"  steps        {_steps(plan)}",
        "",
        "training: what holds it, the cheapest first",
        *_ways(training.ways),
        "",
        f"serving as {serving.form}, {serving.streams} × {serving.context:,} tokens",
        f"  memory       {_gib(serving.weights_bytes)} weights + {_gib(serving.kv_bytes)} KV cache{_local(plan)}",
        *_served(plan),
        *(f"  refused      {reason}" for reason in serving.refused),
        "",
        f"the line, run {plan.run}: at most",
        _line(plan),
    ]
    return "\n".join(parts)


def side_by_side(plans: Sequence["Plan"]) -> str:
    """Several plans in columns: cost, speed, control, and what each gives up."""
    columns = [
        {
            "base": plan.base.rpartition("/")[2],
            "train on": f"{_gpus(way)}, {way.how}" if (way := _chosen(plan)) else "nothing we know",
            "hours": _range(way.hours) if way and way.hours else "unknown",
            "USD": _range(way.costs[0].usd) + f" {way.costs[0].provider}" if way and way.costs else "unknown",
            "serve as": plan.serving.form,
            "serve on": plan.serving.hardware or "nothing we know",
            "USD a month": _money(plan.serving.usd_per_month),
            "tokens/s": _range(plan.serving.tokens_per_second) if plan.serving.tokens_per_second else "unknown",
            "control": GIVES[plan.serving.form][0],
            "gives up": GIVES[plan.serving.form][1],
        }
        for plan in plans
    ]
    return grid(["", *(plan.recipe for plan in plans)], [[key, *(c[key] for c in columns)] for key in columns[0]], 34)


def models_text(here: Sequence["LocalBase"], half: Sequence[tuple[str, int]] = ()) -> str:
    """What is known, what is here, and what is here in part."""
    from tuneline.configs.models import registry

    table, there = registry(), {base.known_as for base in here}
    rows = []
    for key, model in table.models.items():
        shape = table.shape(key)
        marks = "tested" if model.tested else "untested" if table.trainable(key) else "not trained here"
        size = _many(shape.total) + (f" ({_many(shape.active)})" if shape.experts else "")
        gate = "gated" if model.gated else "open"
        is_here = "here" if key in there else ""
        rows.append([key, model.kind, size, f"{model.context:,}", model.licence, gate, marks, is_here])
    parts = [grid(["name", "kind", "size (active)", "context", "licence", "hub", "trained", ""], rows)]
    if here:
        mine = [
            [
                b.slug,
                f"{b.bytes / 1e9:.2f} GB",
                f"{b.last_used:%Y-%m-%d}",
                "pinned" if b.pinned else "",
                ", ".join(b.runs),
            ]
            for b in here
        ]
        parts.append(grid(["here", "size", "last used", "", "runs"], mine))
    if half:
        rows = [[slug, f"{size / 1e9:.2f} GB", "the same command goes on"] for slug, size in half]
        parts.append(grid(["not whole", "so far", ""], rows))
    return "\n\n".join(parts)


def model_text(key: str) -> str:
    """One base: what it is, and the memory it takes."""
    from tuneline.configs.models import registry
    from tuneline.core.pins import pin_of
    from tuneline.stages.plan.base_fit import CONTEXT, RUN_BITS, TRAIN, run_bytes
    from tuneline.stages.plan.memory import peak

    table = registry()
    model, shape = table.models[key], table.shape(key)
    heads = f"{shape.heads} heads over {shape.kv_heads} of keys and values, of {shape.head_dim}"
    experts = f", {shape.experts} experts, {shape.experts_per_token} a token" if shape.experts else ""
    page = f", https://huggingface.co/{model.hub}" if model.hub else ""
    revision = (pin_of(model.hub) if model.hub else None) or model.revision
    run = ", ".join(f"{name} {run_bytes(shape, bits) / GIB:,.1f}" for name, bits in RUN_BITS.items())
    train = ", ".join(f"{name} {peak(shape, work).total / GIB:,.1f}" for name, work in TRAIN.items())
    return "\n".join(
        [
            f"{key}: {model.kind}, {'tested' if model.tested else 'untested'}{page}",
            f"  revision     {revision}",
            f"  licence      {model.licence}{', to be accepted on its page' if model.gated else ''}",
            f"  parameters   {shape.total:,}, {shape.active:,} active",
            f"  shape        {shape.layers} layers of {shape.hidden}, {heads}, feed-forward {shape.ffn}{experts}",
            f"  context      {model.context:,} tokens, vocabulary {shape.vocabulary:,}",
            f"  template     {model.template or 'none'}, tool parser {model.tool_parser or 'none'}",
            f"  GiB to run   {run} (one stream of {CONTEXT:,} tokens)",
            f"  GiB to train {train} (rank 16, one row of 2,048 tokens)"
            if table.trainable(key)
            else f"  GiB to train Tuneline does not train the {shape.family} family",
        ]
    )


def fit_text(where: "Machine", found: Sequence["Fit"]) -> str:
    """Which bases a machine holds."""
    size = f"{where.gpus} × {where.gpu_bytes / GIB:.1f}" if where.gpus else f"{where.cpu_bytes / GIB:.1f}"
    rows = [[each.model, each.run or "no", each.train or "no"] for each in found]
    return f"{where.said}: {size} GiB to use\n" + grid(["base", "runs at", "trains"], rows)


def guide_text(guide: Sequence[tuple[str, tuple[str, ...], str]]) -> str:
    """The selection guide, or one entry of it."""
    return grid(["if you have, or want", "take", "because"], [[name, ", ".join(m), why] for name, m, why in guide], 50)


def doctor_text(found: Sequence["Finding"]) -> str:
    """What was looked at; what is missing stops something, what is absent only leaves something out."""
    return grid(["", "", "", "to mend it"], [[f.what, f.state, f.told, f.mend] for f in found])


def grid(head: Sequence[str], rows: Iterable[Sequence[str]], widest: int = 60) -> str:
    """Columns as wide as what is in them, longer text folded."""
    import textwrap

    folded = [[textwrap.wrap(cell, widest, break_on_hyphens=False) or [""] for cell in row] for row in (head, *rows)]
    widths = [max(len(line) for row in folded for line in row[i]) for i in range(len(head))]
    lines = []
    for row in folded:
        for i in range(max(map(len, row))):
            cells = [cell[i] if i < len(cell) else "" for cell in row]
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    return "\n".join(lines)


def _data(plan: "Plan") -> str:
    rows = plan.training.rows
    count = "rows unknown until `tuneline prepare`" if rows.train is None else f"{rows.train:,.0f} rows"
    how = "measured" if rows.measured else "estimated; `tuneline prepare` measures"
    return f"{count}, {_range(rows.tokens)} tokens each ({how}), at most {rows.longest:,}"


def _steps(plan: "Plan") -> str:
    training = plan.training
    if training.steps is None or training.tokens is None:
        return "unknown: the rows are not counted yet, and the recipe has no train.max_steps"
    epochs = "" if training.epochs is None else f" = {training.epochs:.3g} epochs"
    low, high = training.tokens
    return f"{training.steps:,}{epochs}, {_many(low)} to {_many(high)} tokens"


def _ways(ways: Sequence["Way"]) -> list[str]:
    if not ways:
        return ["  nothing in configs/hardware.yaml holds one row at a time; shorter data.max_tokens, or method qlora"]
    shown = list(ways[:WAYS_SHOWN])
    for way in ways[WAYS_SHOWN:]:  # what is asked for, and what no other line has an offer of
        if way.asked or {cost.provider for cost in way.costs} - {cost.provider for w in shown for cost in w.costs}:
            shown.append(way)
    lines = [
        f"  {'GPUs':<14} {'how':<8} {'rows':>4} {'GiB each':>8} {'hours':>12}  USD, cheapest offer first",
        *(
            f"  {_gpus(w):<14} {w.how:<8} {w.rows:>4} {w.memory.total / GIB:>8.1f} "
            f"{_range(w.hours) if w.hours else 'unknown':>12}  {_costs(w)}{'  <- compute.train' if w.asked else ''}"
            for w in shown
        ),
    ]
    if len(ways) > len(shown):
        lines.append(f"  and {len(ways) - len(shown)} more in --json")
    parts = dataclasses.asdict(shown[0].memory)
    of = ", ".join(f"{name} {value / GIB:.1f}" for name, value in parts.items() if value)
    lines.append(f"  GiB of {_gpus(shown[0])}: {of}")
    if any(not cost.verified for way in shown for cost in way.costs):
        lines.append("  * not read on the provider's own page: see configs/hardware.yaml")
    return lines


def _costs(way: "Way") -> str:
    return (
        ", ".join(f"{c.provider} {_range(c.usd)}{'' if c.verified else '*'}" for c in way.costs) or "not for hire there"
    )


def _chosen(plan: "Plan") -> "Way | None":
    """What the recipe asks for; the cheapest if that does not hold it."""
    ways = plan.training.ways
    return next((way for way in ways if way.asked), ways[0] if ways else None)


def _gpus(way: "Way") -> str:
    return f"{way.gpu}:{way.count}" if way.count > 1 else way.gpu


def _local(plan: "Plan") -> str:
    serving = plan.serving
    if serving.kv_local_bytes >= serving.kv_bytes:
        return ""
    return f" ({_gib(serving.kv_local_bytes)} where the engine keeps of local layers only what they see)"


def _served(plan: "Plan") -> list[str]:
    serving = plan.serving
    if serving.hardware is None or serving.usd_per_month is None:
        return ["  hardware     nothing Modal rents in one container holds this; fewer streams or a shorter context"]
    lines = [f"  hardware     {serving.hardware}: {_money(serving.usd_per_month)} USD a month if up all day"]
    if serving.tokens_per_second and serving.usd_per_1000_queries:
        low, high = serving.usd_per_1000_queries
        lines.append(
            f"  speed        {_range(serving.tokens_per_second)} tokens/s a stream, "
            f"{low:.2g} to {high:.2g} USD a thousand queries (1,000 tokens in, 200 out) when busy"
        )
    if serving.flat:
        offers = (
            f"{name} {_money(usd)} USD a month" if usd else f"{name} does not" for name, usd in serving.flat.items()
        )
        lines.append(f"  holds it too {', '.join(offers)}")
    pays = ", ".join(f"{_many(tokens)} ({kind})" for kind, tokens in serving.break_even.items())
    lines.append(f"  breaks even  above so many tokens a month bought from an API: {pays}")
    if serving.break_even_share is not None:
        verdict = "pays" if serving.break_even_share < 1 else "does not pay"
        lines.append(f"  against your bill: {serving.break_even_share:.0%} of it, so it {verdict}")
    return lines


def preference_text(found: "Preference") -> str:
    """What people's votes on a ballot show."""
    decided = found.a_won + found.b_won
    lines = [
        f"{found.verdict}: B = {found.b} against A = {found.a}",
        f"  B preferred   {found.b_won} of {decided} items somebody won, {found.share:.1%} "
        f"({found.low:.1%} to {found.high:.1%}, p = {found.p:.2g}); {found.tied} tied",
        f"  raters        {', '.join(found.raters)}; {found.items} items rated",
        f"  the left side was taken in {found.left_share:.0%} of the votes that took one",
    ]
    if found.kappa is not None:
        lines += [
            f"  agreement     kappa {found.kappa:.2f}, the same vote in {found.agreed:.0%} of {found.both_rated} "
            "votes of two on one item"
        ]
    return "\n".join(lines)


def load_text(found: "Load") -> str:
    """What was measured under load, and of what."""
    failed = f", {found.errors} failed" if found.errors else ""
    shares = (0.5, 0.95, 0.99)
    whole = ", ".join(f"p{100 * share:.0f} {found.latency(share):.3f} s" for share in shares)
    first = ", ".join(f"p{100 * share:.0f} {found.first_token(share):.3f} s" for share in shares)
    lines = [
        f"{found.endpoint} ({found.model}): {found.requests} requests, {found.rate:g} a second due, open loop{failed}",
        f"  latency      {whole}: from when a request was due to its last token",
        f"  first token  {first}: from when it was due",
        f"  answered     {found.requests_per_second:.2f} requests and {found.tokens_per_second:.0f} tokens a second",
    ]
    if found.memory_gb is not None:
        lines += [f"  memory       {found.memory_gb:.3f} GB resident at most, the server's process"]
    if found.usd_per_1000_queries is not None:
        lines += [
            f"  cost         {found.usd_per_1000_queries:.4f} USD for 1,000 queries at this rate on {found.hardware} "
            f"({found.usd_per_hour:.3f} USD an hour)"
        ]
    return "\n".join(lines)


def _line(plan: "Plan") -> str:
    from tuneline.stages.plan.stage_bounds import table

    return table(plan.line)


def _range(both: Range) -> str:
    low, high = both
    digits = 0 if high >= 100 else 1 if high >= 10 else 2
    return f"{low:,.{digits}f}–{high:,.{digits}f}" if f"{low:.3g}" != f"{high:.3g}" else f"{high:,.{digits}f}"


def _money(usd: float | None) -> str:
    return "unknown" if usd is None else f"{usd:,.0f}"


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f} GiB" if size < 1000 * GIB else f"{size / GIB:,.0f} GiB"


def _many(number: float) -> str:
    if number < 1000:
        return f"{number:.0f}"
    power = min(int(math.log10(number) // 3), 4)
    return f"{number / 1000**power:.3g}{' kMBT'[power]}"
