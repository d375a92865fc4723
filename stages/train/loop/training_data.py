"""Prepared rows as the token ids and labels that the trainer takes."""

from pathlib import Path
from typing import Any

from datasets import Dataset

from tuneline.core.errors import BadRecipe
from tuneline.stages.prepare.prepared_run import read_prepared
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.train.loop.loss import IGNORED

CHECKED_ROWS = 8
"""Rows that are padded together to see whether every token of the loss mask stays in the loss."""


def load_dataset(renderer: Renderer, file: Path) -> Dataset:
    """Return the prepared rows in `file` as `input_ids` and `labels`, which are IGNORED outside the loss mask."""
    rendered = [renderer(row) for row in read_prepared(file)]
    labels = [[i if in_loss else IGNORED for i, in_loss in zip(r.ids, r.mask, strict=True)] for r in rendered]
    return Dataset.from_dict({"input_ids": [r.ids for r in rendered], "labels": labels})


def refuse_hiding_padding(collator: Any, dataset: Dataset, tokenizer: Any) -> None:
    """Raise BadRecipe if padding removes tokens from the loss, as it does where the pad token also ends a turn."""
    rows = [dataset[i] for i in range(min(CHECKED_ROWS, len(dataset)))]
    expected = sum(label != IGNORED for row in rows for label in row["labels"][1:])
    remaining = int((collator(rows)["labels"][:, 1:] != IGNORED).sum())
    if remaining < expected:
        raise BadRecipe(
            f"base: its tokenizer pads with {tokenizer.pad_token!r}, and ends a turn with "
            f"{tokenizer.eos_token!r}: padding hides {expected - remaining} of {expected} tokens in the loss, "
            "so the model would never learn to stop; give the tokenizer a separate pad token"
        )
