"""One recipe's plan: data, training, serving, and what the pipeline run costs at most."""

from typing import TYPE_CHECKING

from tuneline.cli.views.plan_serving import format_serving
from tuneline.cli.views.plan_training import format_training_options
from tuneline.cli.views.units import abbreviate, format_range
from tuneline.stages.plan.stage_bounds import format_bounds

if TYPE_CHECKING:
    from tuneline.stages.plan import Plan


def format_plan(plan: "Plan") -> str:
    """Return a recipe's plan as text of several lines."""
    training = plan.training
    parts = [
        f"{plan.recipe}: {plan.base}",
        f"  parameters   {abbreviate(training.parameters_total)}, {abbreviate(training.parameters_active)} active, "
        f"{abbreviate(training.parameters_trained)} trained",
        f"  data         {_format_rows(plan)}",
        f"  steps        {_format_steps(plan)}",
        f"  to stop      {_format_stop(plan)}",
        f"  preempted    {_format_preemption(plan)}",
        "",
        "training: hardware that fits, cheapest first",
        *format_training_options(training.ways),
        "",
        *format_serving(plan.serving),
        "",
        f"pipeline, run {plan.run}: upper bounds",
        format_bounds(plan.line),
    ]
    return "\n".join(parts)


def _format_rows(plan: "Plan") -> str:
    rows = plan.training.rows
    count = "rows unknown until `tuneline prepare`" if rows.train is None else f"{rows.train:,.0f} rows"
    source = "measured" if rows.measured else "estimated; `tuneline prepare` measures"
    return f"{count}, {format_range(rows.tokens)} tokens each ({source}), at most {rows.longest:,}"


def _format_steps(plan: "Plan") -> str:
    training = plan.training
    if training.steps is None or training.tokens is None:
        return "unknown: the rows are not counted yet, and the recipe has no train.max_steps"
    epochs = "" if training.epochs is None else f" = {training.epochs:.3g} epochs"
    low, high = training.tokens
    return f"{training.steps:,}{epochs}, {abbreviate(low)} to {abbreviate(high)} tokens"


def _format_preemption(plan: "Plan") -> str:
    """Return the work that one preemption costs."""
    loss = plan.preemption
    if loss is None:
        return "unknown: the training does not fit on compute.train"
    expected, most = (format_range((low / 60, high / 60)) for low, high in (loss.expected_s, loss.interval_s))
    return f"{expected} minutes of work are lost each time ({most} at most), and the base is loaded again"


def _format_stop(plan: "Plan") -> str:
    """Return what a call on Modal is granted between the stop signal and its end, and for what."""
    stop = plan.stop
    if stop.step is None:
        return "unknown: the training does not fit on compute.train"
    parts = {"step": stop.step, "validation": stop.validation, "checkpoint": stop.checkpoint}
    return f"{stop.total:,.0f} s on compute.train: " + ", ".join(f"{part} {s or 0:,.0f}" for part, s in parts.items())
