"""What every part of a recipe is made of, and where its files are looked for."""

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

ROOT = Path(__file__).parents[1]
"""Tuneline's own folder; a relative path is looked up in the current folder first, then here."""


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Section(BaseModel):
    """A frozen part of a recipe; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, defer_build=True)


def find(path: Path) -> Path:
    """A path as a recipe writes it: absolute, from the current folder, or from Tuneline's own."""
    path = path.expanduser()
    return path if path.is_absolute() or path.exists() else ROOT / path
