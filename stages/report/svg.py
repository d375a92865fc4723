"""SVG elements whose coordinates are percentages of the drawing and whose colours are CSS classes of the page."""

from collections.abc import Callable, Sequence
from html import escape

Point = tuple[float, float]


def make_scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return a function from values between `low` and `high` to percentages between `start` and `end`."""
    return lambda value: round(start + (value - low) / ((high - low) or 1) * (end - start), 2)


def svg(body: str, css: str, title: str) -> str:
    """Return a drawing; `title` is read by screen readers."""
    return f'<svg class="{css}" role="img" aria-label="{escape(title)}">{body}</svg>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """Return a straight line."""
    return f'<line class="{css}" x1="{x1}%" y1="{y1}%" x2="{x2}%" y2="{y2}%"/>'


def circle(x: float, y: float, css: str, radius: int) -> str:
    """Return a dot; `radius` is in pixels, so that it keeps its shape."""
    return f'<circle class="{css}" cx="{x}%" cy="{y}%" r="{radius}"/>'


def text(x: float, y: float, content: str, anchor: str, css: str = "") -> str:
    """Return a text, escaped; `anchor` says which of its ends is at `x`: start, middle or end."""
    position = f'x="{x}%" y="{y}%" text-anchor="{anchor}" dominant-baseline="middle"'
    return f'<text class="{css}" {position}>{escape(content)}</text>'


def polyline(points: Sequence[Point], css: str) -> str:
    """Return a line through points, in units of the drawing's view box: SVG takes no percentages here."""
    return f'<polyline class="{css}" points="{" ".join(f"{x},{y}" for x, y in points)}"/>'
