"""How many rows of how many tokens a recipe trains on: measured if `prepare` has run, else from what can be counted."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from tuneline.configs.data import Data, Source
from tuneline.configs.hardware import Range
from tuneline.configs.recipe import Recipe
from tuneline.core.paths import resolve

READ_BYTES = 1 << 20
"""Of a file of rows; the rest is taken to be like its beginning."""
BYTES_A_TOKEN = (3.0, 5.0)
"""English and code in Llama's vocabulary; other languages take more tokens."""
CALL_TOKENS = (60, 160)
"""A request, its call and the template around them, without tools."""
ROWS_DIFFER = 1.5
"""A position counts as learned if it is in any row of those computed at a time; an assumption."""
TOOL_OVERHEAD = 1.3
"""A tool as the template shows it, against its lines in the catalogue's file without phrases."""


@dataclass(frozen=True)
class Rows:
    """What an epoch is."""

    train: float | None
    """None: cannot be counted before `prepare`."""
    tokens: Range
    """Of a row, shortest and longest likely mean."""
    longest: int
    """What memory has to hold, in tokens."""
    measured: bool
    learned: float = 1.0
    """Share of the longest rows at which something is learned: there are logits for no other token."""


def rows_of(recipe: Recipe, run: Path) -> Rows:
    """Of the training rows, validation taken off."""
    data = recipe.data
    if measured := _prepared(run / "prepare" / "manifest.json", data):
        return measured
    counted = [_source(source, data) for source in data.sources]
    low, high = min(c[1][0] for c in counted), max(c[1][1] for c in counted)
    tokens = min(low, data.max_tokens), min(high, data.max_tokens)
    calls = all(source.path is None for source in data.sources)
    learned = min(1.0, CALL_TOKENS[1] / data.max_tokens) if calls else 1.0
    if any(count is None for count, _ in counted):
        return Rows(None, tokens, data.max_tokens, measured=False, learned=learned)
    total = sum(count for count, _ in counted if count is not None)
    train = total - min(data.validation_share * total, data.validation_rows)
    return Rows(train, tokens, data.max_tokens, measured=False, learned=learned)


def _prepared(manifest: Path, data: Data) -> Rows | None:
    try:
        metrics = json.loads(manifest.read_text(encoding="utf-8"))["metrics"]
        mean = float(metrics["tokens_mean"])
        learned = min(1.0, ROWS_DIFFER * metrics.get("learned_tokens_mean", mean) / mean)
        return Rows(float(metrics["rows_train"]), (mean, mean), data.max_tokens, measured=True, learned=learned)
    except (OSError, ValueError, KeyError):
        return None


def _source(source: Source, data: Data) -> tuple[float | None, Range]:
    """(rows, tokens a row) of one source."""
    if source.path is not None:
        rows, tokens = _file(resolve(source.path))
        return None if rows is None else rows * source.weight, tokens
    rows = source.rows or (source.per_tool or 0) * len(_tools(data))
    return rows * source.weight, _call_tokens(data)


def _file(path: Path) -> tuple[float | None, Range]:
    """Of JSON lines; what else there is, `prepare` counts."""
    if path.suffix != ".jsonl":
        return None, (50, 1e9)
    with path.open("rb") as file:
        beginning = file.read(READ_BYTES)
    lines = max(beginning.count(b"\n"), 1)
    mean_bytes = len(beginning) / lines
    return path.stat().st_size / mean_bytes, (mean_bytes / BYTES_A_TOKEN[1], mean_bytes / BYTES_A_TOKEN[0])


def _tools(data: Data) -> list[int]:
    """The length of each tool in the catalogue's file, its phrases left out, in characters."""
    if data.tools is None:
        return []
    text = resolve(data.tools).read_text(encoding="utf-8")
    tools = re.split(r"^  (?=\S+:\s*$)", text, flags=re.M)[1:]
    return [len(tool.partition("    phrases:")[0]) for tool in tools]


def _call_tokens(data: Data) -> Range:
    tools = _tools(data)
    if not tools or data.catalogue == "learned":
        return CALL_TOKENS
    one = TOOL_OVERHEAD * sum(tools) / len(tools)
    some = min(1 + sum(data.distractors) / 2, len(tools))
    shown = (1 - data.whole_catalogue) * some + data.whole_catalogue * len(tools)
    return CALL_TOKENS[0] + shown * one / BYTES_A_TOKEN[1], CALL_TOKENS[1] + shown * one / BYTES_A_TOKEN[0]
