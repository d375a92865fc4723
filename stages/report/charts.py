"""Small charts as inline SVG. Coordinates are percentages and text keeps its size, so that they fit a phone and a page.

Colours are CSS classes of the page: the same drawing serves light, dark and print.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import TYPE_CHECKING, NamedTuple

from tuneline.stages.report.svg import Point, circle, line, make_scale, polyline, svg, text

if TYPE_CHECKING:
    from markupsafe import Markup

LEFT, RIGHT, TOP, BOTTOM = 9.0, 97.0, 5.0, 86.0
"""The plot's box inside its drawing, in percent; labels are outside it."""
WHISKER_LEFT, WHISKER_RIGHT = 2, 98
"""Ends of a whisker's scale inside its drawing, in percent."""


@dataclass(frozen=True)
class Series:
    """A line through points; `dots` marks each of them."""

    name: str
    css: str
    points: Sequence[Point]
    dots: bool = False


@dataclass(frozen=True)
class Mark:
    """A point with its interval along y."""

    label: str
    x: float
    y: float
    low: float
    high: float
    css: str = "tuned"


class WhiskerRow(NamedTuple):
    """A row of a whisker chart, as the macro `whiskers` in `parts.html.jinja` unpacks it."""

    label: str
    drawing: "Markup"
    value: str
    n: int


def draw_whisker(
    value: float, low: float, high: float, css: str, floor_at: float | None = None, span: tuple[float, float] = (0, 1)
) -> str:
    """Return a dot and its interval on a line over `span`, with a tick at `floor_at` if it is given."""
    x = make_scale(*span, WHISKER_LEFT, WHISKER_RIGHT)
    grid = "".join(line(x(quarter), 0, x(quarter), 100, "grid") for quarter in _list_quarters(span))
    floor_tick = line(x(floor_at), 8, x(floor_at), 92, "floor") if floor_at is not None else ""
    caps = "".join(line(x(end), 32, x(end), 68, f"whisker {css}") for end in (low, high))
    interval = line(x(low), 50, x(high), 50, f"whisker {css}") + circle(x(value), 50, css, 5)
    title = f"{value:.1%}, interval {low:.1%} to {high:.1%}"
    return svg(grid + floor_tick + caps + interval, "row", title)


def draw_whisker_axis(span: tuple[float, float] = (0, 1)) -> str:
    """Return the scale under a column of whiskers; numbers are signed if it begins below 0."""
    x = make_scale(*span, WHISKER_LEFT, WHISKER_RIGHT)
    anchors = {span[0]: "start", span[1]: "end"}
    sign = "+" if span[0] < 0 else ""
    labels = "".join(
        text(x(quarter), 70, f"{quarter:{sign}.0%}", anchors.get(quarter, "middle")) for quarter in _list_quarters(span)
    )
    return svg(labels, "axis", f"scale from {100 * span[0]:.0f} to {100 * span[1]:.0f} %")


def _list_quarters(span: tuple[float, float]) -> list[float]:
    return [span[0] + (span[1] - span[0]) * quarter / 4 for quarter in range(5)]


def draw_lines(all_series: Sequence[Series], title: str, y_text: Callable[[float], str] = lambda y: f"{y:g}") -> str:
    """Return series over steps on one scale that starts at 0, or an empty string if no series has a point."""
    points = [point for series in all_series for point in series.points]
    if not points:
        return ""
    x_max, y_max = max(x for x, _ in points), max(y for _, y in points)
    x_ticks, y_ticks = choose_ticks(0, x_max, 6), choose_ticks(0, y_max, 4)
    x_end, y_end = max(x_max, 1.0), max(y_ticks[-1], y_max) or 1.0
    x, y = make_scale(0, x_end, LEFT, RIGHT), make_scale(0, y_end, BOTTOM, TOP)
    grid = "".join(line(LEFT, y(t), RIGHT, y(t), "grid") + text(LEFT - 1, y(t), y_text(t), "end") for t in y_ticks)
    grid += "".join(text(x(t), 95, f"{t:g}", "middle") for t in x_ticks if t <= x_end)
    curves = "".join(polyline([(x(a), y(b)) for a, b in series.points], series.css) for series in all_series)
    dots = "".join(circle(x(a), y(b), series.css, 3) for series in all_series if series.dots for a, b in series.points)
    # Only a nested drawing may be stretched: text and dots must keep their shape.
    stretched = f'<svg viewBox="0 0 100 100" preserveAspectRatio="none">{curves}</svg>'
    return svg(grid + stretched + dots, "plot", title)


def draw_scatter(
    marks: Sequence[Mark],
    title: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    top: float | None = None,
) -> str:
    """Return marks with their intervals, or an empty string without marks.

    x starts at 0. y ends at `top` and starts near the lowest interval; without `top` it starts at 0.
    """
    if not marks:
        return ""
    x_max = max(mark.x for mark in marks)
    low, high = (min(m.low for m in marks), top) if top is not None else (0.0, max(m.high for m in marks) or 1.0)
    y_ticks = [tick for tick in choose_ticks(low, high, 4) if tick <= high]
    y_low = min(y_ticks[0], low)
    x, y = make_scale(0, x_max * 1.08, LEFT + 4, RIGHT), make_scale(y_low, high, BOTTOM - 8, TOP + 8)
    grid = "".join(line(LEFT + 3, y(t), RIGHT, y(t), "grid") + text(LEFT + 2, y(t), y_text(t), "end") for t in y_ticks)
    grid += "".join(text(x(t), 95, x_text(t), "middle") for t in choose_ticks(0, x_max * 1.05, 4) if x(t) <= RIGHT)
    whiskers = "".join(
        line(x(m.x), y(m.low), x(m.x), y(m.high), f"whisker {m.css}") + circle(x(m.x), y(m.y), m.css, 5) for m in marks
    )
    return svg(grid + whiskers + _draw_names(marks, x, y), "plot", title)


def _draw_names(marks: Sequence[Mark], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """Return the marks' labels, above and below in turn: marks with similar x are close together."""
    return "".join(
        text(x(m.x), y(m.high) - 6 if i % 2 == 0 else y(m.low) + 7, m.label, _choose_anchor(x(m.x)), "name")
        for i, m in enumerate(sorted(marks, key=lambda m: m.x))
    )


def _choose_anchor(x: float) -> str:
    return "start" if x < LEFT + 10 else "end" if x > RIGHT - 8 else "middle"


def choose_ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers, the first at or below `low`, the last at or below `high`."""
    if high <= low:
        return [low]
    exact_step = (high - low) / count
    power = 10.0 ** floor(log10(exact_step))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= exact_step - 1e-12)
    first = floor(low / step + 1e-9)
    steps = floor((high - first * step) / step + 1e-9)
    return [round((first + i) * step, 10) for i in range(steps + 1)]
