"""Tuneline on Modal: every Function, Server and Cron with its image, hardware, Volumes and limits.

    modal run app.py::train --recipe configs/recipes/demo.yaml
    modal deploy app.py

This file declares; what a stage does is in `stages/`, how it is called on Modal in `volumes/`. A recipe's `compute`
section replaces the hardware below, except for `ephemeral_disk`, which Modal does not let a call change.
"""

from typing import Any

import modal

from tuneline import images
from tuneline.configs.cloud import cloud
from tuneline.configs.compute import PIPELINE_CONTAINER, Conversion
from tuneline.volumes.call_outcomes import Outcome
from tuneline.volumes.entrypoints import DEMO, run_verb
from tuneline.volumes.mounts import ENVIRONMENT, mounted
from tuneline.volumes.pipeline_run import run_pipeline
from tuneline.volumes.schedule import evaluate_on_schedule
from tuneline.volumes.stage_container import change_policy, evaluate_promoted, run_stage

HOUR, DAY = 3600, 24 * 3600
CONVERT_DISK_MIB = 1024 * Conversion.disk_gib
RETRIES = modal.Retries(max_retries=2, initial_delay=0.0)
"""Retries of preempted and lost containers; errors that a retry cannot fix come back as values."""
SETTINGS = cloud()

app = modal.App("tuneline")
line: Any = {
    "volumes": mounted("models", "runs", "data"),
    "env": ENVIRONMENT,
    "retries": RETRIES,
    "single_use_containers": True,
}


@app.function(image=images.cpu.image, cpu=2, memory=8 * 1024, timeout=6 * HOUR, **line)
def fetch_cpu(stage: str, recipe: str, run: str, hours: float) -> Outcome:
    return run_stage(stage, recipe, run, hours)


@app.function(image=images.cpu.image, cpu=4, memory=16 * 1024, timeout=HOUR, **line)
def prepare_cpu(stage: str, recipe: str, run: str, hours: float) -> Outcome:
    return run_stage(stage, recipe, run, hours)


@app.function(image=images.train.image, gpu="H100", cpu=8, memory=64 * 1024, timeout=DAY, **line)
def train_h100(stage: str, recipe: str, run: str, hours: float) -> Outcome:
    return run_stage(stage, recipe, run, hours)


@app.function(image=images.train.image, cpu=8, memory=16 * 1024, timeout=DAY, **line)
def train_cpu(stage: str, recipe: str, run: str, hours: float) -> Outcome:
    return run_stage(stage, recipe, run, hours)


@app.function(
    image=images.convert.image, cpu=8, memory=32 * 1024, timeout=4 * HOUR, ephemeral_disk=CONVERT_DISK_MIB, **line
)
def convert_cpu(stage: str, recipe: str, run: str, hours: float) -> Outcome:
    return run_stage(stage, recipe, run, hours)


@app.function(
    image=images.compress.image, cpu=8, memory=64 * 1024, timeout=DAY, ephemeral_disk=CONVERT_DISK_MIB, **line
)
def convert_compress(stage: str, recipe: str, run: str, hours: float) -> Outcome:
    return run_stage(stage, recipe, run, hours)


@app.function(image=images.evaluate.image, gpu="A10", cpu=4, memory=32 * 1024, timeout=4 * HOUR, **line)
def evaluate_a10(stage: str, recipe: str, run: str, hours: float) -> Outcome:
    return run_stage(stage, recipe, run, hours)


@app.function(image=images.convert.image, cpu=4, memory=8 * 1024, timeout=4 * HOUR, **line)
def evaluate_cpu(stage: str, recipe: str, run: str, hours: float) -> Outcome:
    return run_stage(stage, recipe, run, hours)


FUNCTIONS = {
    ("fetch", False): fetch_cpu,
    ("prepare", False): prepare_cpu,
    ("train", True): train_h100,
    ("train", False): train_cpu,
    ("preflight", True): train_h100,
    ("preflight", False): train_cpu,
    ("convert", False): convert_cpu,
    ("convert", True): convert_compress,
    ("evaluate", True): evaluate_a10,
    ("evaluate", False): evaluate_cpu,
}


@app.function(
    image=images.cpu.image,
    cpu=(0.125, PIPELINE_CONTAINER.cores),
    memory=(int(1024 * PIPELINE_CONTAINER.memory_gib), int(1024 * PIPELINE_CONTAINER.memory_gib)),
    timeout=DAY,
    **line,
)
def walk_cpu(recipe: str, run: str, stages: list[str], ticket: str) -> Outcome:
    return run_pipeline(recipe, run, stages, ticket, FUNCTIONS, walk_cpu)


@app.function(
    image=images.cpu.image,
    cpu=0.25,
    memory=512,
    timeout=60,
    volumes=mounted("runs", "policy"),
    env=ENVIRONMENT,
    max_containers=1,  # no file lock reaches from one container's Volume to another's: changes queue for this one
)
def policy_cpu(verb: str, words: list[str]) -> Outcome:
    return change_policy(verb, words)


@app.function(
    image=images.convert.image,
    cpu=(2, 2),
    memory=(4 * 1024, 4 * 1024),
    timeout=SETTINGS.schedule.seconds(cores=2 + 0.25, memory_gib=4 + 0.5),  # it and the Function that waits for it
    volumes=mounted("data", "models", "runs", "policy", "scores"),
    env=ENVIRONMENT,
)
def evaluate_promoted_cpu() -> None:
    evaluate_promoted()


@app.function(
    image=images.cpu.image,
    cpu=0.25,
    memory=512,
    timeout=DAY,
    env=ENVIRONMENT,
    schedule=modal.Cron(SETTINGS.schedule.cron) if SETTINGS.schedule.cron else None,
)
def scheduled_cpu() -> None:
    evaluate_on_schedule(evaluate_promoted_cpu)


@app.cls(
    image=images.convert.image if SETTINGS.endpoint.form == "gguf" else images.serve.image,
    gpu=SETTINGS.endpoint.gpu,
    cpu=SETTINGS.endpoint.cores,
    memory=int(1024 * SETTINGS.endpoint.memory_gib),
    volumes=mounted("models", "runs", "policy", "cache"),
    env=ENVIRONMENT,
    timeout=HOUR,
    min_containers=SETTINGS.endpoint.min_containers,
    scaledown_window=int(60 * SETTINGS.endpoint.scaledown_minutes),
)
@modal.concurrent(max_inputs=SETTINGS.endpoint.concurrency)
class Endpoint:
    """Everything promoted, behind the OpenAI API; the keys of `tuneline keys` open it."""

    @modal.asgi_app()
    def serve(self):  # type: ignore[no-untyped-def]
        from tuneline.volumes.endpoint_container import build_endpoint

        return build_endpoint(SETTINGS.endpoint)


@app.local_entrypoint()
def fetch(recipe: str = DEMO, run: str = "", only: bool = False) -> None:
    run_verb(walk_cpu, "fetch", recipe, run, only=only)


@app.local_entrypoint()
def prepare(recipe: str = DEMO, run: str = "", only: bool = False) -> None:
    run_verb(walk_cpu, "prepare", recipe, run, only=only)


@app.local_entrypoint()
def preflight(recipe: str = DEMO, run: str = "", only: bool = False) -> None:
    run_verb(walk_cpu, "preflight", recipe, run, only=only)


@app.local_entrypoint()
def train(recipe: str = DEMO, run: str = "", only: bool = False) -> None:
    run_verb(walk_cpu, "train", recipe, run, only=only)


@app.local_entrypoint()
def convert(recipe: str = DEMO, run: str = "", only: bool = False) -> None:
    run_verb(walk_cpu, "convert", recipe, run, only=only)


@app.local_entrypoint()
def evaluate(recipe: str = DEMO, run: str = "", only: bool = False) -> None:
    run_verb(walk_cpu, "evaluate", recipe, run, only=only)


@app.local_entrypoint()
def pipeline(recipe: str = DEMO, run: str = "") -> None:
    run_verb(walk_cpu, "evaluate", recipe, run, only=False)
