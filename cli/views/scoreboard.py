"""The scoreboard of a run."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def render_scoreboard(evaluated: Mapping[str, Any], converted: Mapping[str, Any]) -> Table:
    """Return base, tuned and quantized models on every suite, from the metrics of `evaluate` and `convert`."""
    percent = f"{evaluated['confidence']:.0%}"
    table = Table(
        "suite", "model", f"right tool ({percent} interval)", "and exact arguments", "n", "size", title="Scoreboard"
    )
    for row in evaluated["scoreboard"]:
        file = converted["files"].get("base-F16" if row["target"] == "base" else row["target"])
        table.add_row(
            row["suite"],
            row["target"],
            _format_share(row["name_accuracy"], row["name_low"], row["name_high"]),
            _format_share(row["exact_accuracy"], row["exact_low"], row["exact_high"]),
            str(row["n"]),
            f"{file['bytes'] / 1e6:.1f} MB" if file else "elsewhere",
        )
    for row in evaluated["classifier"]:
        share = _format_share(row["accuracy"], row["low"], row["high"])
        table.add_row(row["suite"], "TF-IDF + logistic regression", share, "–", str(row["n"]), "–", style="dim")
    return table


def _format_share(share: float, low: float, high: float) -> str:
    return f"{100 * share:5.1f} %  ({100 * low:.1f}–{100 * high:.1f})"
