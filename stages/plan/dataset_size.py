"""Rows and tokens a recipe trains on: measured if `prepare` has run, else estimated from files and the recipe."""

import re
from dataclasses import dataclass
from pathlib import Path

from tuneline.configs.data import Data, Source
from tuneline.configs.hardware import Range
from tuneline.configs.recipe import Recipe
from tuneline.core.artifacts import flatten, is_finished, read_artifact
from tuneline.core.manifest import MadeFrom
from tuneline.core.paths import resolve

SAMPLE_BYTES = 1 << 20
"""Read from the beginning of a file of rows; the rest is assumed to be like it."""
BYTES_PER_TOKEN = (3.0, 5.0)
"""English and code in Llama's vocabulary; other languages take more tokens."""
CALL_TOKENS = (60, 160)
"""A request, its tool call and the template around them, without tools."""
ROW_DIFFERENCE = 1.5
"""A position is in the loss if it is so in any row of those computed at a time; this factor is an assumption."""
TOOL_OVERHEAD = 1.3
"""Size of a tool in the template, over that of its lines in the catalogue's file without phrases."""
UNKNOWN_TOKENS = (50, 1e9)
"""Of a row in a file that only `prepare` can count."""


@dataclass(frozen=True)
class DatasetSize:
    """Rows of one epoch."""

    train: float | None
    """Training rows; None if they cannot be counted before `prepare`."""
    tokens: Range
    """Lowest and highest likely mean of a row."""
    longest: int
    """Tokens of the longest row, which memory has to hold."""
    measured: bool
    """Whether `prepare` has counted them."""
    learned: float = 1.0
    """Share of the longest rows' tokens in the loss: logits are computed for no others."""
    validation: float = 0.0
    """Validation rows; at most as many if they cannot be counted before `prepare`."""


@dataclass(frozen=True)
class _SourceSize:
    rows: float | None
    tokens: Range
    """Of a row."""


def estimate_dataset(recipe: Recipe, run: Path) -> DatasetSize:
    """Return the size of the training split.

    Raises:
        StageFailed: what `prepare` measured is damaged.
    """
    data = recipe.data
    if measured := _read_measured(recipe, run / "prepare"):
        return measured
    sources = [_estimate_source(source, data) for source in data.sources]
    low, high = min(s.tokens[0] for s in sources), max(s.tokens[1] for s in sources)
    tokens = min(low, data.max_tokens), min(high, data.max_tokens)
    only_calls = all(source.path is None for source in data.sources)
    loss_share = min(1.0, CALL_TOKENS[1] / data.max_tokens) if only_calls else 1.0
    rows = [source.rows for source in sources if source.rows is not None]
    train, validation = None, float(data.validation_rows)
    if len(rows) == len(sources):
        share = 0.0 if data.validation else data.validation_share
        validation = min(share * sum(rows), data.validation_rows)
        train = sum(rows) - validation
    if data.validation:
        stated = _estimate_source(data.validation, data).rows
        validation = float(data.validation_rows) if stated is None else min(stated, data.validation_rows)
    return DatasetSize(train, tokens, data.max_tokens, measured=False, learned=loss_share, validation=validation)


def _read_measured(recipe: Recipe, prepared: Path) -> DatasetSize | None:
    """Return what `prepare` measured of the recipe's data; None if it has not run, or was run on other data."""
    if not is_finished(prepared) or not _is_of(recipe, read_artifact(prepared).manifest.made_from):
        return None
    metrics = read_artifact(prepared).metrics
    mean = float(metrics["tokens_mean"])
    loss_share = min(1.0, ROW_DIFFERENCE * metrics.get("learned_tokens_mean", mean) / mean)
    return DatasetSize(
        train=float(metrics["rows_train"]),
        tokens=(mean, mean),
        longest=recipe.data.max_tokens,
        measured=True,
        learned=loss_share,
        validation=float(metrics.get("rows_validation", recipe.data.validation_rows)),
    )


def _is_of(recipe: Recipe, made_from: MadeFrom) -> bool:
    """Return whether something was made from the recipe's data as it is now; False if a file of it is gone."""
    try:
        settings = flatten(recipe.section("data") | recipe.template_settings())
    except OSError:
        return False
    return made_from.model_copy(update={"settings": settings}).fingerprint == made_from.fingerprint


def _estimate_source(source: Source, data: Data) -> _SourceSize:
    if source.path is not None:
        size = _estimate_file(resolve(source.path))
        return size if size.rows is None else _SourceSize(size.rows * source.weight, size.tokens)
    rows = source.rows or (source.per_tool or 0) * len(_measure_tools(data))
    return _SourceSize(rows * source.weight, _estimate_call_tokens(data))


def _estimate_file(path: Path) -> _SourceSize:
    """Estimate a file of JSON lines; other files are counted by `prepare`."""
    if path.suffix != ".jsonl":
        return _SourceSize(None, UNKNOWN_TOKENS)
    with path.open("rb") as file:
        beginning = file.read(SAMPLE_BYTES)
    lines = max(beginning.count(b"\n"), 1)
    mean_bytes = len(beginning) / lines
    tokens = mean_bytes / BYTES_PER_TOKEN[1], mean_bytes / BYTES_PER_TOKEN[0]
    return _SourceSize(path.stat().st_size / mean_bytes, tokens)


def _measure_tools(data: Data) -> list[int]:
    """Return the length of each tool in the catalogue's file in characters, without its phrases."""
    if data.tools is None:
        return []
    text = resolve(data.tools).read_text(encoding="utf-8")
    tools = re.split(r"^  (?=\S+:\s*$)", text, flags=re.M)[1:]
    return [len(tool.partition("    phrases:")[0]) for tool in tools]


def _estimate_call_tokens(data: Data) -> Range:
    """Return the tokens of a row with a tool call and the tools shown in it."""
    lengths = _measure_tools(data)
    if not lengths or data.catalogue == "learned":
        return CALL_TOKENS
    tool_bytes = TOOL_OVERHEAD * sum(lengths) / len(lengths)
    with_distractors = min(1 + sum(data.distractors) / 2, len(lengths))
    shown = (1 - data.whole_catalogue) * with_distractors + data.whole_catalogue * len(lengths)
    return (
        CALL_TOKENS[0] + shown * tool_bytes / BYTES_PER_TOKEN[1],
        CALL_TOKENS[1] + shown * tool_bytes / BYTES_PER_TOKEN[0],
    )
