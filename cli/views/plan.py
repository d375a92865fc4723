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
        "",
        "training: what holds it, the cheapest first",
        *format_training_options(training.ways),
        "",
        *format_serving(plan.serving),
        "",
        f"the line, run {plan.run}: at most",
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
