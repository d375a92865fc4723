"""Columns of plain text."""

import textwrap
from collections.abc import Iterable, Sequence


def format_grid(header: Sequence[str], rows: Iterable[Sequence[str]], max_width: int = 60) -> str:
    """Return rows as columns as wide as their longest cell; cells of more than `max_width` characters are folded."""
    folded_rows = [
        [textwrap.wrap(cell, max_width, break_on_hyphens=False) or [""] for cell in row] for row in (header, *rows)
    ]
    widths = [max(len(line) for row in folded_rows for line in row[column]) for column in range(len(header))]
    lines = []
    for row in folded_rows:
        for i in range(max(map(len, row))):
            cells = [cell[i] if i < len(cell) else "" for cell in row]
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    return "\n".join(lines)
