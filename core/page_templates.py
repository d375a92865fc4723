"""Jinja templates of pages (HTML) and model cards (Markdown); every value is escaped for its template's language."""

from pathlib import Path
from typing import TYPE_CHECKING

from tuneline.core import markdown
from tuneline.core.formatting import (
    format_bytes,
    format_count,
    format_duration,
    format_hash,
    format_label,
    format_percent,
)

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

FILTERS = {
    "percent": format_percent,
    "size": format_bytes,
    "duration": format_duration,
    "label": format_label,
    "count": format_count,
    "hash": format_hash,
}


MARKDOWN_FILTERS = {"code": markdown.code_span, "autolink": markdown.autolink}


def load_template(file: Path) -> "Template":
    """Return the template in `file`, which may include others of its folder.

    Values are escaped for Markdown in `*.md.jinja`, for HTML in any other. A variable that is missing raises
    `jinja2.UndefinedError` when the template is rendered.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    is_markdown = file.name.endswith(".md.jinja")
    environment = Environment(
        loader=FileSystemLoader(file.parent),
        autoescape=not is_markdown,
        finalize=markdown.escape_markdown if is_markdown else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.filters |= FILTERS | (MARKDOWN_FILTERS if is_markdown else {})
    return environment.get_template(file.name)


def mark_safe(markup: str) -> "Markup":
    """Return markup of our own that a template inserts without escaping; texts in it must have been escaped before."""
    from markupsafe import Markup

    return Markup(markup)
