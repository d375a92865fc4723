"""Perplexity of each file on validation rows rendered as in training: over all tokens, and over tokens in the loss.

The validation loss counts the tokens in the loss; other tools call the perplexity over all tokens perplexity.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.configs.recipe import Recipe
from tuneline.core import jsonl
from tuneline.core.events import Events
from tuneline.stages.evaluate.statistics import cluster_bootstrap
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.prepare.prepared_run import TEMPLATE, load_tools

if TYPE_CHECKING:
    from tuneline.stages.prepare.rendering.renderer import Rendered

Row = dict[str, Any]


@dataclass(frozen=True)
class Loss:
    """Loss of one row: sums in nats and token counts, over all tokens and over those in the loss.

    The first token is not counted: nothing predicts it.
    """

    row: int
    nats: float
    tokens: int
    learned_nats: float
    learned_tokens: int


def perplexity_table(
    recipe: Recipe, prepared: Path, files: Mapping[str, Path], folder: Path, events: Events
) -> list[Row]:
    """Return each target's perplexity on `evaluate.perplexity_rows` validation rows; empty if that is 0.

    The rows are rendered as in training, for base and tuned model alike.
    """
    if not recipe.evaluate.perplexity_rows:
        return []
    from tuneline.stages.prepare.prepared_run import read_prepared
    from tuneline.stages.prepare.rendering.renderer import Renderer

    rows = read_prepared(prepared / "validation.jsonl")[: recipe.evaluate.perplexity_rows]
    rendered = list(Renderer(open_base(recipe).path, load_tools(prepared), prepared / TEMPLATE).batch(rows))
    total, measured = len(files) * len(rows), 0

    def on_row(target: str, _: int) -> None:
        nonlocal measured
        measured += 1
        events.progress(measured, total, "rows", f"perplexity of {target}")

    threads = recipe.compute.threads or len(os.sched_getaffinity(0))
    losses = measure_losses(files, rendered, folder, recipe.data.max_tokens, threads, on_row)
    return perplexity_rows(losses, recipe.evaluate.confidence)


def measure_losses(
    files: Mapping[str, Path],
    rows: Sequence["Rendered"],
    folder: Path,
    context: int,
    threads: int,
    on_row: Callable[[str, int], None] = lambda target, row: None,
) -> dict[str, list[Loss]]:
    """Return each target's loss on every row that fits `context` tokens.

    Losses are appended to `folder/perplexity/TARGET.jsonl`, so that a killed run can resume. `on_row(target, row)` is
    called after each row.
    """
    from tuneline.engines.llama_cpp.build import find_llama_cpp
    from tuneline.engines.llama_cpp.libllama import Gguf

    fitting = {number: row for number, row in enumerate(rows) if 1 < len(row.ids) <= context}
    by_target = {}
    for target, gguf in files.items():
        file = folder / "perplexity" / f"{target}.jsonl"
        losses = _read_losses(file)
        missing = [number for number in fitting if number not in losses]
        file.parent.mkdir(parents=True, exist_ok=True)
        if missing:
            with Gguf(find_llama_cpp(), gguf, context=context, threads=threads) as model:
                for number in missing:
                    losses[number] = _row_loss(number, fitting[number], model.logits(fitting[number].ids))
                    jsonl.append(file, asdict(losses[number]))
                    on_row(target, number)
        by_target[target] = [losses[number] for number in fitting]
    return by_target


def _row_loss(number: int, row: "Rendered", logits: Any) -> Loss:
    import numpy as np

    logits, ids = logits[:-1].astype(np.float64), np.asarray(row.ids[1:])
    in_loss = np.asarray(row.mask[1:], dtype=bool)
    highest = logits.max(axis=1)
    log_normalizer = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    nats = log_normalizer - logits[np.arange(len(ids)), ids]
    return Loss(number, float(nats.sum()), len(ids), float(nats[in_loss].sum()), int(in_loss.sum()))


def perplexity_rows(losses: Mapping[str, Sequence[Loss]], confidence: float) -> list[Row]:
    """Return each target's perplexity with an interval, resampled by rows: a row's tokens are not independent."""
    rows = []
    for target, row_losses in losses.items():
        for which in ("all", "learned"):
            pairs = [(x.nats, x.tokens) if which == "all" else (x.learned_nats, x.learned_tokens) for x in row_losses]
            if tokens := sum(count for _, count in pairs):
                rows.append({"target": target, "tokens_counted": which, "rows": len(pairs), "tokens": tokens}
                            | _perplexity(pairs, confidence))  # fmt: skip
    return rows


def _perplexity(pairs: list[tuple[float, int]], confidence: float) -> Row:
    """Return the perplexity of (nats, tokens) of each row; its interval is of the ratio's residuals, by row."""
    tokens = sum(count for _, count in pairs)
    nats = sum(loss for loss, _ in pairs) / tokens
    mean_tokens = tokens / len(pairs)
    residuals = [(loss - nats * count) / mean_tokens for loss, count in pairs]
    low, high = cluster_bootstrap(residuals, [str(i) for i in range(len(pairs))], confidence)
    values = {"nats_per_token": nats, "perplexity": math.exp(nats)}
    values |= {"perplexity_low": math.exp(nats + low), "perplexity_high": math.exp(nats + high)}
    return {name: round(value, 4) for name, value in values.items()}


def _read_losses(file: Path) -> dict[int, Loss]:
    """Return the losses in a file by row; a line that a crash cut off is removed."""
    jsonl.remove_cut_line(file)
    losses = [Loss(**record) for record in jsonl.read(file)]
    return {loss.row: loss for loss in losses}
