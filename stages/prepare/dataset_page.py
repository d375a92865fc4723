"""The page on a dataset: lengths, languages, duplicates, tools and tokens, and ten rows as the loss sees them."""

from collections import Counter
from pathlib import Path
from typing import Any

from tuneline.core import artifacts
from tuneline.core.page_templates import load_template
from tuneline.stages.prepare.examination import Examination
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.prepare.rows import Row

BARS = 24
LABELS_SHOWN = 120


def write_page(file: Path, examined: Examination, verdict: dict[str, Any]) -> None:
    """Writes the page, one HTML file with nothing fetched from elsewhere."""
    languages: Counter[str] = Counter()
    for part in examined.parts:
        languages.update(part.languages)
    page = load_template(Path(__file__).with_name("dataset_page.html.jinja")).render(
        verdict=verdict,
        lengths=histogram(list(examined.lengths)) if examined.renderer else [],
        languages=_shares(languages),
        tools=_shares(examined.called),
        known_tools=len(examined.toolbox.tools),
        styles=_shares(examined.styles),
        examples=[marked(row, examined.renderer) for row in examined.examples] if examined.renderer else [],
    )
    artifacts.write_atomic(file, page)


def histogram(lengths: list[int]) -> list[dict[str, Any]]:
    """Bars of equal width: from, to, how many, and the height as a share of the highest."""
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


def marked(row: Row, renderer: Renderer) -> list[tuple[str, bool]]:
    """A row's text token by token as the model gets it, in runs that are learned or not."""
    rendered = renderer(row)
    runs: list[tuple[list[int], bool]] = []
    for token, learned in zip(rendered.ids, rendered.mask, strict=True):
        if not runs or runs[-1][1] != bool(learned):
            runs.append(([], bool(learned)))
        runs[-1][0].append(token)
    return [(renderer.tokenizer.decode(ids), learned) for ids, learned in runs]


def _shares(counts: Counter[str]) -> list[tuple[str, int, float]]:
    top = max(counts.values(), default=1)
    return [(name, count, count / top) for name, count in counts.most_common(LABELS_SHOWN)]
