"""The HTML report on a dataset: lengths, languages, duplicates, tools, and ten rows with the text in the loss."""

from collections import Counter
from pathlib import Path
from typing import Any

from tuneline.core.files import write_atomic
from tuneline.core.page_templates import load_template
from tuneline.stages.prepare.examination import Examination
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.prepare.rows import Row

BARS = 24
LABELS_SHOWN = 120


def write_dataset_page(file: Path, examination: Examination, verdict: dict[str, Any]) -> None:
    """Write the page as one self-contained HTML file."""
    languages: Counter[str] = Counter()
    for source in examination.sources:
        languages.update(source.languages)
    renderer = examination.renderer
    page = load_template(Path(__file__).with_name("dataset_page.html.jinja")).render(
        verdict=verdict,
        lengths=histogram(list(examination.lengths)) if renderer else [],
        languages=_shares(languages),
        tools=_shares(examination.called),
        known_tools=len(examination.toolbox.tools),
        styles=_shares(examination.styles),
        examples=[split_by_loss(row, renderer) for row in examination.examples.rows] if renderer else [],
    )
    write_atomic(file, page)


def histogram(lengths: list[int]) -> list[dict[str, Any]]:
    """Return bars of equal width, each with its bounds, its count, and its share of the highest count."""
    if not lengths:
        return []
    low, high = min(lengths), max(lengths)
    width = max(1, -(-(high - low + 1) // BARS))
    counts = Counter((length - low) // width for length in lengths)
    top = max(counts.values())
    return [
        {"low": low + i * width, "high": low + (i + 1) * width - 1, "count": counts[i], "share": counts[i] / top}
        for i in range(max(counts) + 1)
    ]


def split_by_loss(row: Row, renderer: Renderer) -> list[tuple[str, bool]]:
    """Return a row's text as the model reads it, in runs of tokens that are all in the loss (True) or all not."""
    rendered = renderer(row)
    runs: list[tuple[list[int], bool]] = []
    for token, in_loss in zip(rendered.ids, rendered.mask, strict=True):
        if not runs or runs[-1][1] != bool(in_loss):
            runs.append(([], bool(in_loss)))
        runs[-1][0].append(token)
    return [(renderer.tokenizer.decode(ids), in_loss) for ids, in_loss in runs]


def _shares(counts: Counter[str]) -> list[tuple[str, int, float]]:
    """Return (name, count, share of the highest count), the most frequent first."""
    top = max(counts.values(), default=1)
    return [(name, count, count / top) for name, count in counts.most_common(LABELS_SHOWN)]
