"""What can be removed, as a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Column
from rich.text import Text

from tuneline.cli.views.tables import make_table
from tuneline.core.formatting import format_bytes

if TYPE_CHECKING:
    from tuneline.stages.runs.removal import Removable


def render_removables(items: "Sequence[Removable]") -> RenderableType:
    """Return a table of what can be removed, with its size, and the sum."""
    has_reasons = any(item.why for item in items)
    columns: list[Column | str] = ["what", "kind", Column("size", no_wrap=True), *(["why"] if has_reasons else [])]
    table = make_table(*columns)
    for item in items:
        reason = (item.why,) if has_reasons else ()
        table.add_row(Text(_shorten(item.path), overflow="fold"), item.kind, format_bytes(item.bytes), *reason)
    return Group(table, Text(f"total {format_bytes(sum(item.bytes for item in items))}"))


def _shorten(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
