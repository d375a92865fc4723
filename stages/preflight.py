"""Preflight: three steps of a training on its longest rows, on its own hardware, and the run priced by them."""

import shutil
import statistics
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import BadRecipe, NotFound, StaleArtifact
from tuneline.core.events import Events, read_events
from tuneline.core.spending import spent_usd, usd_per_hour
from tuneline.stages.fetch.bases import open_base

if TYPE_CHECKING:
    from tuneline.stages.plan.training import Training, Way

STEPS = 3
"""The first one warms up and is not counted."""
NEVER = 10**6
"""A step that is not reached."""
COPIED = ("tools.json", "chat_template.jinja")
GB = 1e9


def preflight(recipe: Recipe, run: Path) -> Artifact:
    """What was measured and what the plan said, as metrics in `preflight/`; no weights are kept.

    Measured on the machine it runs on: anew after a change of `compute.train`.
    """
    base, prepared, folder = open_base(recipe), artifacts.open_artifact(run / "prepare"), run / "preflight"
    if not artifacts.finished(folder):
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was cut off: nothing to go on from
    hardware = recipe.compute.model_dump(include={"train", "threads", "micro_batch_rows", "processes", "strategy"})
    try:
        return artifacts.make(
            folder,
            stage_version=1,
            settings=recipe.section("base", "train") | {"compute": hardware},
            needs={"fetch": base, "prepare": prepared},
            build=lambda folder: _build(recipe, base.path, prepared, folder, run),
        )
    except StaleArtifact:
        shutil.rmtree(folder)
        raise NotFound(f"{folder}: was measured for other settings; run the same command again") from None


def refuse_measured(recipe: Recipe, run: Path) -> None:
    """Raise BadRecipe if the training, as measured, would cost more than the recipe allows."""
    measured, most = artifacts.open_artifact(run / "preflight").metrics["measured"], recipe.compute.max_cost_usd
    if most is None or measured["usd"] is None:
        return
    spent = spent_usd(run)
    if spent + measured["usd"] > most:
        raise BadRecipe(
            f"compute.max_cost_usd: {most:g}: as preflight measured it, training takes "
            f"{_told(measured['hours'])} h and {measured['usd']:.2f} USD, and {spent:.2f} USD are spent; "
            "allow it, train fewer steps, or take other hardware"
        )


def _build(recipe: Recipe, base: Path, prepared: Artifact, folder: Path, run: Path) -> dict[str, Any]:
    import torch

    from tuneline.stages.plan import shape_of_base
    from tuneline.stages.plan.dataset_size import rows_of
    from tuneline.stages.plan.training import training
    from tuneline.stages.train.distributed.launcher import launch

    events, trial = Events(run, "preflight"), folder / artifacts.SCRATCH / "trial"
    _longest(recipe, base, prepared.path, trial / "rows")
    (trial / artifacts.SCRATCH).mkdir(parents=True)
    events.emit("note", text=f"{STEPS} steps on the longest rows")
    began = time.time()
    launch(_short(recipe), base, trial / "rows", trial, trial, None)
    on_gpu = torch.cuda.is_available()
    here = recipe if on_gpu else _on_cpu(recipe)
    planned = training(here, shape_of_base(recipe), rows_of(recipe, run))
    told = list(read_events(trial))
    for event in told:
        if event["kind"] == "warning":
            events.emit("warning", text=event["text"])
    return {
        "planned": _planned(planned, next((way for way in planned.ways if way.asked), None)),
        "measured": _measured(recipe, planned, told, prepared.metrics["tokens_mean"], began, on_gpu=on_gpu),
    }


def table(run: Path) -> str:
    """Planned beside measured, as text."""
    metrics = artifacts.open_artifact(run / "preflight").metrics
    lines = [f"{'':<16} {'planned':>16} {'measured':>10}"]
    names = {"seconds_per_step": "seconds a step", "memory_gb": "GB at the peak", "hours": "hours", "usd": "USD"}
    for key, name in names.items():
        low_high, found = metrics["planned"].get(key), metrics["measured"][key]
        said = "–" if low_high is None else "–".join(map(_told, dict.fromkeys(low_high)))
        lines.append(f"{name:<16} {said:>16} {'no price' if found is None else _told(found):>10}")
    return "\n".join(lines)


def _told(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _longest(recipe: Recipe, base: Path, prepared: Path, folder: Path) -> None:
    """What `prepare` left, with the longest training rows alone, as many as these steps take."""
    from tuneline.stages.prepare import load_tools
    from tuneline.stages.prepare.rendering.renderer import Renderer

    rows = (prepared / "train.jsonl").read_bytes().splitlines(keepends=True)
    lengths = [tokens for tokens, _, _ in Renderer(base, load_tools(prepared)).measure(rows)]
    order = sorted(range(len(rows)), key=lambda i: -lengths[i])
    wanted = STEPS * recipe.train.batch_rows
    if recipe.train.packing:  # a row of the batch then is a sequence of many
        wanted *= max(1, recipe.data.max_tokens // max(1, round(statistics.mean(lengths))))
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_bytes(b"".join(rows[i] for i in order[:wanted]))
    validation = (prepared / "validation.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "validation.jsonl").write_bytes(b"".join(validation[:1]))
    for name in COPIED:
        if (prepared / name).exists():
            shutil.copyfile(prepared / name, folder / name)


def _short(recipe: Recipe) -> Recipe:
    """The training as it would be, but for its length."""
    changed = {"max_steps": STEPS, "save_steps": NEVER, "evaluate_steps": NEVER, "keep": "last", "init_from": None}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=changed)})


def _on_cpu(recipe: Recipe) -> Recipe:
    container = recipe.compute.train.model_copy(update={"gpu": None})
    return recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"train": container})})


def _planned(planned: "Training", way: "Way | None") -> dict[str, Any]:
    """Lowest and highest; empty where the plan says that it does not fit."""
    if way is None or way.hours is None or not planned.steps:
        return {}
    price = usd_per_hour()
    return {
        "seconds_per_step": [3600 * hours / planned.steps for hours in way.hours],
        "memory_gb": [way.memory.allocated / GB],
        "hours": list(way.hours),
        "usd": None if price is None else [price * hours for hours in way.hours],
    }


def _measured(
    recipe: Recipe, planned: "Training", told: list[dict[str, Any]], row_tokens: float, began: float, *, on_gpu: bool
) -> dict[str, Any]:
    """By the tokens a second of the steps behind the first, and the time until the first was done.

    Validation and checkpoints come on top; that the longest rows are the slowest a token makes up for them.
    """
    import resource

    steps = [event for event in told if event["kind"] == "metrics" and "tokens_per_second" in event]
    speed = statistics.median(event["tokens_per_second"] for event in steps[1:])
    before = datetime.fromisoformat(steps[0]["time"]).timestamp() - began
    packed = recipe.train.packing and recipe.train.max_steps
    a_step = recipe.train.batch_rows * (recipe.data.max_tokens if packed else row_tokens)
    assert planned.steps  # `prepare` has counted the rows
    hours, price = (before + planned.steps * a_step / speed) / 3600, usd_per_hour()
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024
    return {
        "tokens_per_second": speed,
        "seconds_per_step": a_step / speed,
        "memory_gb": max(event.get("memory_gb", 0.0) for event in steps) if on_gpu else most / GB,
        "hours": hours,
        "usd": None if price is None else price * hours,
        "steps": planned.steps,
    }
