"""The scoreboard and the gate of a run, for a terminal of 80 columns."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tuneline.core.formatting import format_bytes, format_label
from tuneline.stages.evaluate.scoring.measure_names import RIGHT_TOOL, measure_name
from tuneline.stages.evaluate.verdicts.gate import NO_DEMANDS, name_outcome

if TYPE_CHECKING:
    from tuneline.core.artifacts import Artifact

CLASSIFIER = "TF-IDF classifier"
SHARE_WIDTH = len("100.0 % (99.1–100.0)")


def render_scoreboard(evaluated: "Artifact", converted: "Artifact") -> Group:
    """Return base, tuned and quantized models on every suite, and where and how surely this was measured."""
    from tuneline.stages.evaluate.verdicts.measurement import describe_measurement, describe_variation

    metrics = evaluated.metrics
    if not metrics["scoreboard"]:
        return Group(Text("not measured: the recipe has no suites (evaluate.suites)"))
    lines = [describe_measurement(evaluated), *describe_variation(evaluated.path.parent, _gate_target(metrics))]
    title = Text(f"Scoreboard: shares of requests, with {metrics['confidence']:.0%} intervals", style="bold")
    suites = dict.fromkeys(row["suite"] for row in metrics["scoreboard"])
    tables = [table for suite in suites for table in _render_suite(metrics, converted.metrics["files"], suite)]
    advice = [Text(f"\n{line}") for line in _advise(metrics)]
    return Group(title, *tables, *advice, Text(), *(Text(line, style="dim") for line in lines))


def render_gate(gate: Mapping[str, Any]) -> Text:
    """Return the gate's outcome, and what is not met or undecided, a line each."""
    outcome = name_outcome(gate)
    if outcome == NO_DEMANDS:
        return Text(f"gate: {outcome}: {'; '.join(gate['reasons'])}")
    if gate["passed"]:
        demands = gate.get("demands", len(gate["reasons"]))
        met = "".join(f"\n  - {reason}" for reason in gate["reasons"])
        return Text.assemble("gate: ", ("passed", "green"), f", {demands} of {demands} demands of the recipe met:{met}")
    unmet = "".join(f"\n  - {reason}" for reason in gate.get("unmet") or gate["reasons"])
    return Text.assemble("gate: ", (outcome, "red"), unmet)


def _advise(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield what to do about a classifier that is as good as the served model, if there is one."""
    target = _gate_target(metrics)
    shares = {row["suite"]: row["name_accuracy"] for row in metrics["scoreboard"] if row["target"] == target}
    suites = [row["suite"] for row in metrics["classifier"] if row["accuracy"] >= shares.get(row["suite"], 2)]
    if suites:
        yield (
            f"On {' and '.join(map(format_label, suites))} the {CLASSIFIER} chooses the tool at least as well as "
            f"{format_label(target)}, in a fraction of the time. If you only need the tool's name, use the classifier; "
            "it fills in no arguments, makes no second call and writes no answers."
        )


def _gate_target(metrics: Mapping[str, Any]) -> str:
    return str(metrics.get("gate", {}).get("target", ""))


def _render_suite(metrics: Mapping[str, Any], files: Mapping[str, Any], suite: str) -> Iterator[RenderableType]:
    """Yield the name of a suite and its table, whose columns are as wide as those of the other suites."""
    measure = measure_name(metrics, suite)
    rows = [row for row in metrics["scoreboard"] if row["suite"] == suite]
    has_calls = measure == RIGHT_TOOL
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("model", min_width=len(CLASSIFIER), overflow="fold")
    table.add_column(measure, min_width=SHARE_WIDTH, no_wrap=True)
    table.add_column("and exact arguments" if has_calls else "", min_width=SHARE_WIDTH, no_wrap=True)
    table.add_column("size", min_width=len("123.4 MB"), justify="right", no_wrap=True)
    for row in rows:
        file = files.get("base-F16" if row["target"] == "base" else row["target"])
        table.add_row(
            format_label(row["target"]),
            _format_share(row["name_accuracy"], row["name_low"], row["name_high"]),
            _format_share(row["exact_accuracy"], row["exact_low"], row["exact_high"]) if has_calls else "",
            format_bytes(file["bytes"]) if file else "–",
        )
    for row in metrics["classifier"]:
        if row["suite"] == suite:
            table.add_row(CLASSIFIER, _format_share(row["accuracy"], row["low"], row["high"]), "–", "–", style="dim")
    yield Text.assemble("\n", (format_label(suite), "bold"), f", {rows[0]['n']} requests")
    yield table


def _format_share(share: float, low: float, high: float) -> str:
    return f"{100 * share:5.1f} % ({100 * low:.1f}–{100 * high:.1f})"
