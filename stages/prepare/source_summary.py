"""What each source contributes to the training data: rows, tokens, files, languages, and its shares."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneline.configs.data import Source


@dataclass
class SourceSummary:
    """Counts of one source, filled in while its rows are examined."""

    name: str
    weight: float = 1.0
    rows: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    problems: int = 0
    files: dict[str, str] = field(default_factory=dict)
    """Format of each file, as it was detected."""
    languages: Counter[str] = field(default_factory=Counter)


def source_name(source: Source) -> str:
    """Return the name of a source in messages and reports."""
    if source.per_tool:
        return f"{source.per_tool} examples per tool"
    path: Path | None = source.path or source.grammar
    return str(path)


def summarize(sources: Sequence[SourceSummary]) -> list[dict[str, Any]]:
    """Return the sources as JSON objects. Shares of rows and tokens are as training sees them, by weight."""
    total_rows = sum(source.rows * source.weight for source in sources) or 1
    total_tokens = sum(source.tokens * source.weight for source in sources) or 1
    return [
        {
            "source": source.name,
            "rows": source.rows,
            "tokens": source.tokens,
            "learned_tokens": source.loss_tokens,
            "weight": source.weight,
            "share_of_rows": round(source.rows * source.weight / total_rows, 4),
            "share_of_tokens": round(source.tokens * source.weight / total_tokens, 4),
            "problems": source.problems,
            "files": source.files,
            "languages": dict(source.languages.most_common(5)),
        }
        for source in sources
    ]
