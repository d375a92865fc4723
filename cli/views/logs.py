"""What `tuneline logs tail` shows."""

from collections.abc import Mapping
from typing import Any

from tuneline.core.terminal import printable


def format_record(record: Mapping[str, Any]) -> str:
    """Return a request, a piece of feedback or a judgement in a line."""
    at, request = str(record.get("at", ""))[:19], record.get("id", "")
    if record.get("kind") == "feedback":
        said = record.get("correction", "")
        return printable(f"{at} {request} feedback {record.get('value', '')} {said}", one_line=True)
    if record.get("kind") == "judged":
        return printable(f"{at} {request} judged {record.get('value', '')} by {record.get('judge', '')}", one_line=True)
    first = record.get("first_token_s")
    parts = [
        *(at, request, f"{record.get('model', '-')}/{record.get('task', '-')}"),
        _describe_side(record),
        f"{record.get('outcome', '-')} {record.get('status', '')}",
        f"{record.get('prompt_tokens', 0)}+{record.get('completion_tokens', 0)} tokens",
        f"{'-' if first is None else f'{first:.2f}'}/{record.get('latency_s', 0):.2f} s",
        *(["shadow"] if record.get("shadow_of") else []),
        *record.get("failures", ()),
    ]
    return printable("  ".join(parts), one_line=True)


def _describe_side(record: Mapping[str, Any]) -> str:
    """Return which side served; where it was assigned to another, that one, too; and a step that says more."""
    assigned, served, step = (str(record.get(key) or "-") for key in ("assigned", "served", "step"))
    side = served if served == assigned else f"{assigned}→{served}"
    return side if step in (side, "-") else f"{side} at {step}{' %' if step.isdecimal() else ''}"
