"""Training: loss and learning rate over steps, final figures, and answers to validation prompts."""

from collections.abc import Sequence

from tuneline.core.events import read_events
from tuneline.core.page_templates import mark_safe
from tuneline.stages.evaluate.statistics import quantile
from tuneline.stages.report.charts import Series, draw_lines
from tuneline.stages.report.readable_prompts import split_prompt
from tuneline.stages.report.run_record import Row, RunRecord
from tuneline.stages.report.svg import Point


def describe_training(run: RunRecord) -> Row:
    """Return the template variables `trained`, `speed`, `curves` and `samples`."""
    events = list(read_events(run.path))
    return {
        "trained": run.metrics("train"),
        "speed": _measure_speed(events),
        "curves": _draw_curves(events),
        "samples": _pair_samples(events),
    }


def _measure_speed(events: Sequence[Row]) -> tuple[float, float] | None:
    """Return the range of tokens a second in which nine steps in ten were; None with fewer than ten steps."""
    speeds = [speed for _, speed in _list_points(events, "tokens_per_second")]
    return (quantile(speeds, 0.05), quantile(speeds, 0.95)) if len(speeds) >= 10 else None


def _draw_curves(events: Sequence[Row]) -> Row:
    loss, validation, rate = (_list_points(events, key) for key in ("loss", "validation_loss", "learning_rate"))
    series = [Series("training", "muted-line", loss), Series("validation", "tuned", validation, dots=True)]
    rate_chart = draw_lines([Series("rate", "tuned", rate)], "Learning rate over steps", _format_tick) if rate else ""
    return {
        "loss": mark_safe(draw_lines([line for line in series if line.points], "Loss over steps")),
        "rate": mark_safe(rate_chart),
        "last_loss": loss[-1] if loss else None,
        "last_validation": validation[-1] if validation else None,
    }


def _list_points(events: Sequence[Row], key: str) -> list[Point]:
    metrics = [e for e in events if e.get("stage") == "train" and e.get("kind") == "metrics"]
    # A resumed training repeats steps: the last value of a step counts. A value that is not finite is written as None.
    return sorted({e["step"]: float(e[key]) for e in metrics if e.get(key) is not None and "step" in e}.items())


def _format_tick(number: float) -> str:
    """Return a number without the leading 0 of a fraction, so that it fits beside a plot on a phone."""
    return f"{number:g}".replace("0.", ".", 1)


def _pair_samples(events: Sequence[Row]) -> Row:
    """Return the answers at the last validation beside those at the first one, or an empty dict without samples."""
    samples = sorted((e for e in events if e.get("kind") == "sample"), key=lambda event: event["step"])
    if not samples:
        return {}
    first, last = samples[0], samples[-1]
    rows = [
        later | {"before": earlier["got"], "messages": split_prompt(later["prompt"])}
        for earlier, later in zip(first["samples"], last["samples"], strict=False)
    ]
    return {"first": first["step"], "last": last["step"], "rows": rows}
