"""What providers were paid for answers in evaluations and for written rows, by the logs that keep each paid answer."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from tuneline.core import jsonl
from tuneline.core.ledger import Spent

PRICE = "the recipe's prices of tokens"
FOLDERS = {"answers": "evaluate", "synthesis": "prepare"}
"""Folder of the cache → the stage that paid."""


def read_paid_answers(cache: Path) -> list[Spent]:
    """Return what was paid by the logs in the folder `cache`: a record for each day, model, run and stage.

    An answer of a version that kept no time counts on the day of its log's last change.
    """
    sums: dict[tuple[date, str, str], float] = {}
    for day, name, stage, usd in _read_payments(cache):
        sums[day, name, stage] = sums.get((day, name, stage), 0.0) + usd
    return [
        Spent(day, "answers", name, stage, "here", hours=0.0, usd=usd, price=PRICE)
        for (day, name, stage), usd in sums.items()
    ]


def _read_payments(cache: Path) -> Iterator[tuple[date, str, str, float]]:
    """Yield day, what was paid for, stage and USD of each paid answer."""
    for folder, stage in FOLDERS.items():
        for file in sorted((cache / folder).glob("*.jsonl")):
            changed = file.stat().st_mtime
            for record in jsonl.read(file, skip_broken=True):
                with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
                    if (usd := float(_find_cost(record))) > 0:
                        at = datetime.fromtimestamp(record.get("at", changed), UTC)
                        yield at.date(), _describe(record), stage, usd


def _describe(record: dict[str, Any]) -> str:
    """Return which model was paid for which run; versions before this one kept no run, the first ones no model."""
    model, run = record.get("model") or "a model that was not kept", record.get("run")
    return f"{model} for {run}" if run else f"{model}, paid by an earlier version, which kept no run"


def _find_cost(record: dict[str, Any]) -> Any:
    return record["reply"]["cost_usd"] if "reply" in record else record["cost_usd"]
