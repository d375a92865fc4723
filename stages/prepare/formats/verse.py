"""Tells verse from prose in a plain text, where a line break may be meant or may only be the edge of a page.

A line of prose ends where the next word would not have fitted; a line of verse ends before. So a text is verse if after
many of its lines the next word would have fitted into the width of its longer lines.
"""

import statistics
from itertools import pairwise

FEWEST_BREAKS = 4
"""Between lines that follow each other; of fewer nothing can be said."""
SHARE = 0.4
"""Of the breaks after which the next word would have fitted: 0.5 and more in verse, 0 in prose between empty lines."""
WIDEST = 120
"""Characters of a long line of verse. Longer ones are paragraphs, each in a line."""
PERCENTILE = 95
"""Of the lengths of lines: the width. A single longer line, such as a title, is not it."""


def is_verse(text: str) -> bool:
    """Return whether the line breaks of a text are meant, as those of a poem are."""
    lines = [line.rstrip() for line in text.splitlines()]
    breaks = [(line, after) for line, after in pairwise(lines) if line.strip() and after.strip()]
    # An indented line after one that is not begins a paragraph, or is the second of a couplet: it says nothing.
    breaks = [(line, after) for line, after in breaks if after[0].isspace() == line[0].isspace()]
    if len(breaks) < FEWEST_BREAKS:
        return False
    lengths = [len(line) for line in lines if line.strip()]
    width = statistics.quantiles(lengths, n=100, method="inclusive")[PERCENTILE - 1]
    if width > WIDEST:
        return False
    fitting = sum(len(line) + 1 + len(after.split()[0]) <= width for line, after in breaks)
    return fitting / len(breaks) >= SHARE
