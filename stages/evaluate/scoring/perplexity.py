"""Perplexity of each file on validation rows, rendered as they are trained: over all tokens, over learned ones.

Learned tokens are what validation loss counts; all tokens are what tools call perplexity: two different things.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.core import jsonl
from tuneline.stages.evaluate.statistics import cluster_bootstrap

if TYPE_CHECKING:
    from tuneline.stages.prepare.rendering.renderer import Rendered

Row = dict[str, Any]


@dataclass(frozen=True)
class Loss:
    """Of one row: nats in all and tokens, over all of them and over learned ones. The first token is given."""

    row: int
    nats: float
    tokens: int
    learned_nats: float
    learned_tokens: int


def measure(
    files: Mapping[str, Path],
    rows: list["Rendered"],
    folder: Path,
    context: int,
    threads: int,
    measured: Callable[[str, int], None] = lambda target, row: None,
) -> dict[str, list[Loss]]:
    """The losses of every row that fits `context`, kept in `folder` a line a row, so that a killed run goes on."""
    from tuneline.engines.llama_cpp.build import find_llama_cpp
    from tuneline.engines.llama_cpp.libllama import Gguf

    fitting = {number: row for number, row in enumerate(rows) if 1 < len(row.ids) <= context}
    found = {}
    for target, gguf in files.items():
        file = folder / "perplexity" / f"{target}.jsonl"
        done = _read(file)
        missing = [number for number in fitting if number not in done]
        file.parent.mkdir(parents=True, exist_ok=True)
        if missing:
            with Gguf(find_llama_cpp(), gguf, context=context, threads=threads) as model:
                for number in missing:
                    done[number] = _loss(number, fitting[number], model.logits(fitting[number].ids))
                    jsonl.append(file, asdict(done[number]))
                    measured(target, number)
        found[target] = [done[number] for number in fitting]
    return found


def _loss(number: int, row: "Rendered", logits: Any) -> Loss:
    import numpy as np

    before, ids, learned = logits[:-1].astype(np.float64), np.asarray(row.ids[1:]), np.asarray(row.mask[1:], dtype=bool)
    highest = before.max(axis=1)
    total = highest + np.log(np.exp(before - highest[:, None]).sum(axis=1))
    nats = total - before[np.arange(len(ids)), ids]
    return Loss(number, float(nats.sum()), len(ids), float(nats[learned].sum()), int(learned.sum()))


def table(losses: Mapping[str, list[Loss]], confidence: float) -> list[Row]:
    """Perplexity of each target with an interval, drawn again by rows: a row's tokens are not independent."""
    rows = []
    for target, found in losses.items():
        for which in ("all", "learned"):
            pairs = [(x.nats, x.tokens) if which == "all" else (x.learned_nats, x.learned_tokens) for x in found]
            if tokens := sum(count for _, count in pairs):
                rows.append({"target": target, "tokens_counted": which, "rows": len(pairs), "tokens": tokens}
                            | _perplexity(pairs, confidence))  # fmt: skip
    return rows


def _perplexity(pairs: list[tuple[float, int]], confidence: float) -> Row:
    """The mean over tokens; its interval by the ratio's residuals, a row being one draw."""
    tokens = sum(count for _, count in pairs)
    nats = sum(loss for loss, _ in pairs) / tokens
    mean_tokens = tokens / len(pairs)
    residuals = [(loss - nats * count) / mean_tokens for loss, count in pairs]
    low, high = cluster_bootstrap(residuals, [str(i) for i in range(len(pairs))], confidence)
    shown = {"nats_per_token": nats, "perplexity": math.exp(nats)}
    shown |= {"perplexity_low": math.exp(nats + low), "perplexity_high": math.exp(nats + high)}
    return {name: round(value, 4) for name, value in shown.items()}


def _read(file: Path) -> dict[int, Loss]:
    """What was measured; a line cut by a crash is measured again."""
    jsonl.remove_cut_line(file)
    losses = [Loss(**record) for record in jsonl.read(file)]
    return {loss.row: loss for loss in losses}
