"""Preflight: a few training steps on the longest rows, on the hardware of the run, to predict its time and cost."""

import contextlib
import shutil
import statistics
import time
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import BadRecipe, NotFound, StaleArtifact
from tuneline.core.events import Events, read_events
from tuneline.core.spending import read_usd_per_hour, sum_spent_usd
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.plan.stop_time import FORWARD, StopTime, StopTimer
from tuneline.stages.run_artifacts import open_stage

if TYPE_CHECKING:
    from tuneline.stages.plan.training import TrainingOption, TrainingPlan

STEPS = 3
"""Training steps; the first one warms up and is not counted."""
NEVER = 10**6
"""A step number that no run reaches."""
COPIED = ("tools.json", "chat_template.jinja")
GB = 1e9


def preflight(recipe: Recipe, run: Path) -> Artifact:
    """Return the artifact `preflight/`, whose metrics are what was measured and what the plan predicted.

    No weights are kept. It measures this machine, so it runs again after a change of `compute.train`.

    Raises:
        NotFound: it was measured with other settings; `discard_outdated` removes that.
    """
    base, prepared, folder = open_base(recipe), open_stage(run, "prepare"), run / "preflight"
    hardware = recipe.compute.model_dump(include={"train", "threads", "micro_batch_rows", "processes", "strategy"})
    try:
        return artifacts.make(
            folder,
            stage_version=2,
            settings=recipe.section("base", "train") | {"compute": hardware},
            needs={"fetch": base, "prepare": prepared},
            build=lambda folder: _build(recipe, base.path, prepared, folder, run),
        )
    except StaleArtifact:
        raise NotFound(f"{folder}: was measured for other settings; run the same command again") from None


def discard_outdated(recipe: Recipe, run: Path) -> None:
    """Remove what an interrupted attempt left, and a measurement for other settings; only the run's writer calls it."""
    folder = run / "preflight"
    with contextlib.suppress(NotFound):
        if artifacts.is_finished(folder) and preflight(recipe, run):
            return
    shutil.rmtree(folder, ignore_errors=True)


def refuse_over_budget(recipe: Recipe, run: Path) -> None:
    """Raise BadRecipe if the training, as measured, would cost more than the recipe allows."""
    measured, limit_usd = open_stage(run, "preflight").metrics["measured"], recipe.compute.max_cost_usd
    if limit_usd is None or measured["usd"] is None:
        return
    spent = sum_spent_usd(run)
    if spent + measured["usd"] > limit_usd:
        raise BadRecipe(
            f"compute.max_cost_usd: {limit_usd:g}: as preflight measured it, training takes "
            f"{_format_number(measured['hours'])} h and {measured['usd']:.2f} USD, and {spent:.2f} USD have "
            "been spent; raise the limit, train fewer steps, or use other hardware"
        )


def _build(recipe: Recipe, base: Path, prepared: Artifact, folder: Path, run: Path) -> dict[str, Any]:
    import torch

    from tuneline.stages.plan.base_shape import read_base_shape
    from tuneline.stages.plan.dataset_size import estimate_dataset
    from tuneline.stages.plan.training import plan_training
    from tuneline.stages.train.job import TrainingJob
    from tuneline.stages.train.launcher import launch

    events, trial = Events(run, "preflight"), folder / artifacts.SCRATCH / "trial"
    _copy_longest_rows(recipe, base, prepared.path, trial / "rows")
    (trial / artifacts.SCRATCH).mkdir(parents=True)
    events.emit("note", text=f"{STEPS} steps on the longest rows")
    began = time.time()
    launch(TrainingJob(_shorten(recipe), base, trial / "rows", trial, trial))
    on_gpu = torch.cuda.is_available()
    priced = recipe if on_gpu else _on_cpu(recipe)
    plan = plan_training(priced, read_base_shape(recipe), estimate_dataset(recipe, run))
    trial_events = list(read_events(trial))
    for event in trial_events:
        if event["kind"] == "warning":
            events.emit("warning", text=event["text"])
    tokens_per_row = prepared.metrics["tokens_mean"]
    return {
        "planned": _planned_values(plan, next((way for way in plan.ways if way.asked), None)),
        "measured": _measured_values(recipe, plan, trial_events, tokens_per_row, began, on_gpu=on_gpu),
    }


def format_comparison(run: Path) -> str:
    """Return a table of planned and measured values as text."""
    measured_here = open_stage(run, "preflight")
    metrics = measured_here.metrics
    lines = [f"{'':<16} {'planned':>16} {'measured':>10}"]
    names = {"seconds_per_step": "seconds per step", "memory_gb": "GB at the peak", "hours": "hours", "usd": "USD"}
    for key, name in names.items():
        low_high, measured = metrics["planned"].get(key), metrics["measured"][key]
        planned = "–" if low_high is None else "–".join(map(_format_number, dict.fromkeys(low_high)))
        lines.append(f"{name:<16} {planned:>16} {'no price' if measured is None else _format_number(measured):>10}")
    return "\n".join([*lines, f"measured {measured_here.manifest.origin}"])


def _format_number(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _copy_longest_rows(recipe: Recipe, base: Path, prepared: Path, folder: Path) -> None:
    """Copy what `prepare` made to `folder`, with only the longest training rows, as many as these steps use."""
    from tuneline.stages.prepare.prepared_run import TEMPLATE, load_tools
    from tuneline.stages.prepare.rendering.renderer import Renderer

    rows = (prepared / "train.jsonl").read_bytes().splitlines(keepends=True)
    lengths = [row.tokens for row in Renderer(base, load_tools(prepared), prepared / TEMPLATE).measure(rows)]
    longest_first = sorted(range(len(rows)), key=lambda i: -lengths[i])
    count = STEPS * recipe.train.batch_rows
    if recipe.train.packing:  # then each row of a batch is a sequence of several
        count *= max(1, recipe.data.max_tokens // max(1, round(statistics.mean(lengths))))
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_bytes(b"".join(rows[i] for i in longest_first[:count]))
    validation = (prepared / "validation.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "validation.jsonl").write_bytes(b"".join(validation[:1]))
    for name in COPIED:
        if (prepared / name).exists():
            shutil.copyfile(prepared / name, folder / name)


def _shorten(recipe: Recipe) -> Recipe:
    """Return the recipe with so few training steps, and neither checkpoints nor evaluations between them."""
    changed = {
        "max_steps": STEPS,
        "warmup_steps": 0,
        "save_steps": NEVER,
        "evaluate_steps": NEVER,
        "keep": "last",
        "init_from": None,
    }
    compute = recipe.compute.model_copy(update={"save_minutes": None})
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=changed), "compute": compute})


def _on_cpu(recipe: Recipe) -> Recipe:
    container = recipe.compute.train.model_copy(update={"gpu": None})
    return recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"train": container})})


def _planned_values(plan: "TrainingPlan", way: "TrainingOption | None") -> dict[str, Any]:
    """Return lists of the lowest and the highest value; empty if the plan says that it does not fit."""
    if way is None or way.hours is None or not plan.steps:
        return {}
    price = read_usd_per_hour()
    return {
        "seconds_per_step": [3600 * hours / plan.steps for hours in way.hours],
        "memory_gb": [way.memory.allocated / GB],
        "hours": list(way.hours),
        "usd": None if price is None else [price * hours for hours in way.hours],
    }


def _measured_values(
    recipe: Recipe,
    plan: "TrainingPlan",
    trial_events: list[dict[str, Any]],
    tokens_per_row: float,
    began: float,
    *,
    on_gpu: bool,
) -> dict[str, Any]:
    """Return what the whole training takes at the speed of the steps after the first, plus the time to the first.

    Validation and checkpoints are not included; that the longest rows are the slowest per token makes up for them.
    """
    import resource

    steps = [event for event in trial_events if event["kind"] == "metrics" and "tokens_per_second" in event]
    tokens_per_second = statistics.median(event["tokens_per_second"] for event in steps[1:])
    startup_s = datetime.fromisoformat(steps[0]["time"]).timestamp() - began
    packed = recipe.train.packing and recipe.train.max_steps
    tokens_per_step = recipe.train.batch_rows * (recipe.data.max_tokens if packed else tokens_per_row)
    assert plan.steps  # `prepare` has counted the rows
    hours, price = (startup_s + plan.steps * tokens_per_step / tokens_per_second) / 3600, read_usd_per_hour()
    processes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak_bytes = max(resource.getrusage(who).ru_maxrss for who in processes) * 1024  # ru_maxrss is in KiB
    return {
        "tokens_per_second": tokens_per_second,
        "seconds_per_step": tokens_per_step / tokens_per_second,
        "memory_gb": max(event.get("memory_gb", 0.0) for event in steps) if on_gpu else peak_bytes / GB,
        "hours": hours,
        "usd": None if price is None else price * hours,
        "steps": plan.steps,
        "stop": asdict(_measure_stop_time(trial_events, plan.rows.validation * tokens_per_row / tokens_per_second)),
    }


def _measure_stop_time(trial_events: list[dict[str, Any]], validation_s: float) -> StopTime:
    """Return what stopping takes after these steps, and a validation of `validation_s` at the speed of training."""
    timer = StopTimer()
    for event in trial_events:
        timer.add(event)
    return replace(timer.measured, validation=FORWARD * validation_s)
