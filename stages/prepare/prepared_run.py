"""What later stages read from the `prepare` directory of a run: rows, tool catalogue, chat template."""

import json
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import Catalogue
from tuneline.stages.prepare.rows import Row

TEMPLATE = "chat_template.jinja"
"""The tuned model's chat template. Written beside the rows only if it differs from the base's own."""

STOP_TOKENS = "stop_token_ids.json"
"""Ids at which the tuned model stops. Written only if the template ends turns with a token at which the base does not
stop."""


def request_fields(prepared: Path) -> dict[str, Any]:
    """Return what requests to a vLLM bring whose base has another template or stops at other tokens."""
    template, stops = prepared / TEMPLATE, prepared / STOP_TOKENS
    fields: dict[str, Any] = {"chat_template": template.read_text("utf-8")} if template.exists() else {}
    return fields | ({"stop_token_ids": json.loads(stops.read_text("utf-8"))} if stops.exists() else {})


def load_tools(prepared: Path) -> Catalogue | None:
    """Return the tool catalogue the run was prepared with, or None if it was prepared without one."""
    file = prepared / "tools.json"
    return Catalogue.model_validate_json(file.read_text()) if file.exists() else None


def read_prepared(file: Path) -> list[Row]:
    """Return the rows of `train.jsonl` or `validation.jsonl`."""
    with file.open(encoding="utf-8") as lines:
        return [Row.model_validate_json(line) for line in lines]


def has_results(prepared: Path) -> bool:
    """Return whether a run was trained on tools' results: a model that was not only picks tools."""
    with (prepared / "train.jsonl").open("rb") as lines:
        return any(b'"role":"tool"' in line or b'"role": "tool"' in line for line in lines)
