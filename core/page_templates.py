"""Jinja templates of pages and model cards."""

from pathlib import Path
from typing import TYPE_CHECKING

from tuneline.core.formatting import format_bytes, format_count, format_duration, format_label, format_percent

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

FILTERS = {
    "percent": format_percent,
    "size": format_bytes,
    "duration": format_duration,
    "label": format_label,
    "count": format_count,
}


def load_template(file: Path, *, escape: bool = True) -> "Template":
    """Return the template in `file`, which may include others of its folder; `escape` values for HTML, not Markdown.

    A variable that is missing raises `jinja2.UndefinedError` when the template is rendered.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(file.parent),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.filters |= FILTERS
    return environment.get_template(file.name)


def mark_safe(markup: str) -> "Markup":
    """Return markup of our own that a template inserts without escaping; texts in it must have been escaped before."""
    from markupsafe import Markup

    return Markup(markup)
