"""The plan of the training against what was measured."""

from tuneline.core.events import read_events
from tuneline.stages.plan.planned_vs_measured import compare_with_measurements
from tuneline.stages.report.run_record import Row, RunRecord


def compare_with_plan(run: RunRecord) -> list[Row]:
    """Return a row for each planned figure, or an empty list if the run is not trained or has no plan."""
    if (manifest := run.manifests.get("train")) is None:
        return []
    events = read_events(run.path)
    comparisons = compare_with_measurements(run.path, manifest.seconds, events, cost_usd=manifest.cost_usd)
    return [
        {
            "what": comparison.name,
            "planned": f"{_format_range(comparison.planned)} {comparison.unit}",
            "measured": f"{_format_range((comparison.measured, comparison.measured))} {comparison.unit}",
            "fix": comparison.correction,
        }
        for comparison in comparisons
    ]


def _format_range(bounds: tuple[float, float]) -> str:
    """Return a range to three significant digits, or one number if both bounds are equal."""
    low, high = (f"{float(f'{value:.3g}'):,.10g}" for value in bounds)
    return low if low == high else f"{low} – {high}"
