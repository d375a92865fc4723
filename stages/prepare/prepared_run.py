"""What later stages read from the `prepare` directory of a run: rows, tool catalogue, chat template."""

from pathlib import Path

from tuneline.configs.catalogue import Catalogue
from tuneline.stages.prepare.rows import Row

TEMPLATE = "chat_template.jinja"
"""The tuned model's chat template. Written beside the rows only if it differs from the base's own."""


def load_tools(prepared: Path) -> Catalogue | None:
    """Return the tool catalogue the run was prepared with, or None if it was prepared without one."""
    file = prepared / "tools.json"
    return Catalogue.model_validate_json(file.read_text()) if file.exists() else None


def read_prepared(file: Path) -> list[Row]:
    """Return the rows of `train.jsonl` or `validation.jsonl`."""
    with file.open(encoding="utf-8") as lines:
        return [Row.model_validate_json(line) for line in lines]
