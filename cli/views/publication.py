"""What publishing will request and write, and what is recorded of it."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tuneline.publish.target import FILE, VERIFIED

if TYPE_CHECKING:
    from tuneline.publish.record import Comparison, TargetRecord
    from tuneline.publish.target import Step


def format_plan(steps: "Sequence[Step]", cost: str) -> str:
    """Return every request and file with its body, and the cost; nothing of it was done."""
    lines = [line for step in steps for line in _format_step(step)]
    return "\n".join([*lines, *([f"cost: {cost}"] if cost else []), "nothing was sent or written"])


def format_published(run: str, target: str, record: "TargetRecord") -> str:
    """Return one target's part of the record in a few lines."""
    lines = [f"{run}: {record.state} to {target}, {(record.ended or record.began):%Y-%m-%d %H:%M} UTC"]
    files = [name for name in record.values if name.startswith(FILE)]
    lines += [f"  {name}: {value}" for name, value in record.values.items() if name not in (*files, VERIFIED)]
    lines += [f"  files: {len(files)}"] if files else []
    if record.compared:
        lines.append(f"  compared: {_format_comparison(record.compared)}")
    return "\n".join(lines)


def _format_step(step: "Step") -> list[str]:
    if step.body is None:
        return [step.shows]
    body = step.body if isinstance(step.body, str) else json.dumps(step.body, ensure_ascii=False)
    return [step.shows, *(f"    {line}" for line in body.rstrip("\n").split("\n"))]


def _format_comparison(compared: "Comparison") -> str:
    if compared.reason:
        return compared.reason
    return (
        f"{compared.same} of {compared.prompts} greedy answers are those of {compared.answers_of} "
        f"(at least {compared.required} are required)"
    )
