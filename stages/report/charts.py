"""Small charts as inline SVG. Coordinates are percentages and text keeps its size, so that they fit a phone and a page.

Colours are CSS classes of the page: the same drawing serves light, dark and print.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from markupsafe import Markup

Point = tuple[float, float]
LEFT, RIGHT, TOP, BOTTOM = 9.0, 97.0, 5.0, 86.0
"""The plot's box inside its drawing, in percent; labels stand outside it."""


@dataclass(frozen=True)
class Series:
    """A line, or dots joined by one, under a name the legend shows."""

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
    """A dot and its interval on a line from 0 to 1, or over `span`; a floor, if there is one, as a tick."""
    at = _scale(*span, 2, 98)
    grid = "".join(_line(at(x), 0, at(x), 100, "grid") for x in _quarters(span))
    floor_line = _line(at(floor_at), 8, at(floor_at), 92, "floor") if floor_at is not None else ""
    marks = _line(at(low), 50, at(high), 50, f"whisker {css}") + _circle(at(value), 50, css, 5)
    caps = "".join(_line(at(x), 32, at(x), 68, f"whisker {css}") for x in (low, high))
    text = f"{value:.1%}, interval {low:.1%} to {high:.1%}"
    return _svg(grid + floor_line + caps + marks, "row", text)


def draw_whisker_axis(span: tuple[float, float] = (0, 1)) -> str:
    """The scale under a column of whiskers."""
    at = _scale(*span, 2, 98)
    anchors = {span[0]: "start", span[1]: "end"}
    signed = "+" if span[0] < 0 else ""
    labels = "".join(_text(at(x), 70, f"{x:{signed}.0%}", anchors.get(x, "middle")) for x in _quarters(span))
    return _svg(labels, "axis", f"scale from {100 * span[0]:.0f} to {100 * span[1]:.0f} %")


def _quarters(span: tuple[float, float]) -> list[float]:
    return [span[0] + (span[1] - span[0]) * quarter / 4 for quarter in range(5)]


def draw_lines(series: Sequence[Series], title: str, y_text: Callable[[float], str] = lambda y: f"{y:g}") -> str:
    """Series over steps, on one scale that starts at 0."""
    points = [point for one in series for point in one.points]
    if not points:
        return ""
    x_ticks = choose_ticks(0, max(x for x, _ in points), 6)
    y_ticks = choose_ticks(0, max(y for _, y in points), 4)
    x_end, y_end = max(max(x for x, _ in points), 1.0), max(y_ticks[-1], max(y for _, y in points)) or 1.0
    x, y = _scale(0, x_end, LEFT, RIGHT), _scale(0, y_end, BOTTOM, TOP)
    grid = "".join(_line(LEFT, y(t), RIGHT, y(t), "grid") + _text(LEFT - 1, y(t), y_text(t), "end") for t in y_ticks)
    grid += "".join(_text(x(t), 95, f"{t:g}", "middle") for t in x_ticks if t <= x_end)
    drawn = "".join(_polyline([(x(a), y(b)) for a, b in one.points], one.css) for one in series)
    dots = "".join(_circle(x(a), y(b), one.css, 3) for one in series if one.dots for a, b in one.points)
    # Only a nested drawing may be stretched: text and dots must keep their shape.
    stretched = f'<svg viewBox="0 0 100 100" preserveAspectRatio="none">{drawn}</svg>'
    return _svg(grid + stretched + dots, "plot", title)


def draw_scatter(
    marks: Sequence[Mark],
    title: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    top: float | None = None,
) -> str:
    """Marks with intervals over a scale of x that starts at 0; y ends at `top`, or starts at 0 where there is none."""
    if not marks:
        return ""
    x_ticks = choose_ticks(0, max(m.x for m in marks) * 1.05, 4)
    low, high = (min(m.low for m in marks), top) if top is not None else (0.0, max(m.high for m in marks) or 1.0)
    y_ticks = [t for t in choose_ticks(low, high, 4) if t <= high]
    y_low = min(y_ticks[0], low)
    x, y = _scale(0, max(m.x for m in marks) * 1.08, LEFT + 4, RIGHT), _scale(y_low, high, BOTTOM - 8, TOP + 8)
    grid = "".join(
        _line(LEFT + 3, y(t), RIGHT, y(t), "grid") + _text(LEFT + 2, y(t), y_text(t), "end") for t in y_ticks
    )
    grid += "".join(_text(x(t), 95, x_text(t), "middle") for t in x_ticks if x(t) <= RIGHT)
    body = "".join(
        _line(x(m.x), y(m.low), x(m.x), y(m.high), f"whisker {m.css}") + _circle(x(m.x), y(m.y), m.css, 5)
        for m in marks
    )
    # Files of like size stand close together: their names go above and below in turn.
    ranked = sorted(marks, key=lambda m: m.x)
    names = "".join(
        _text(x(m.x), y(m.high) - 6 if place % 2 == 0 else y(m.low) + 7, m.label, _anchor(x(m.x)), "name")
        for place, m in enumerate(ranked)
    )
    return _svg(grid + body + names, "plot", title)


def _anchor(x: float) -> str:
    return "start" if x < LEFT + 10 else "end" if x > RIGHT - 8 else "middle"


def choose_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from at or below `low` to at or below `high`, about so many."""
    if high <= low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** floor(log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw - 1e-12)
    first = floor(low / step + 1e-9)
    count = floor((high - first * step) / step + 1e-9)
    return [round((first + i) * step, 10) for i in range(count + 1)]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: round(start + (value - low) / ((high - low) or 1) * (end - start), 2)


def _svg(body: str, css: str, title: str) -> str:
    return f'<svg class="{css}" role="img" aria-label="{escape(title)}">{body}</svg>'


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line class="{css}" x1="{x1}%" y1="{y1}%" x2="{x2}%" y2="{y2}%"/>'


def _circle(x: float, y: float, css: str, radius: int) -> str:
    return f'<circle class="{css}" cx="{x}%" cy="{y}%" r="{radius}"/>'


def _text(x: float, y: float, text: str, anchor: str, css: str = "") -> str:
    return (
        f'<text class="{css}" x="{x}%" y="{y}%" text-anchor="{anchor}" dominant-baseline="middle">{escape(text)}</text>'
    )


def _polyline(points: Sequence[Point], css: str) -> str:
    return f'<polyline class="{css}" points="{" ".join(f"{x},{y}" for x, y in points)}"/>'
