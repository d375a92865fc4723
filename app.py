"""Tuneline on Modal: every Function, Server and Cron with its image, hardware, Volumes and limits.

    modal run app.py::train --recipe configs/recipes/demo.yaml
    modal deploy app.py

This file declares; what a stage does is in `stages/`, how it is called on Modal in `volumes/`. A recipe's `compute`
section replaces the hardware below, except for `ephemeral_disk`, which Modal does not let a call change.
"""

import sys
from collections.abc import Callable
from typing import Any

import modal

from tuneline import images
from tuneline.configs.cloud import PAGE, Schedule, cloud
from tuneline.configs.compute import PIPELINE_CONTAINER, Conversion
from tuneline.configs.gateway import read_gateway
from tuneline.volumes.call_outcomes import Outcome
from tuneline.volumes.command_line import read_needed_functions
from tuneline.volumes.entrypoints import DEMO, run_sweep, run_verb
from tuneline.volumes.mounts import ENVIRONMENT, mounted
from tuneline.volumes.pipeline_run import Order, run_pipeline
from tuneline.volumes.schedule import evaluate_on_schedule
from tuneline.volumes.stage_calls import StageFunction
from tuneline.volumes.stage_container import change_policy, evaluate_promoted, run_stage

HOUR, DAY = 3600, 24 * 3600
CONVERT_DISK_MIB = 1024 * Conversion.disk_gib
RETRIES = modal.Retries(max_retries=2, initial_delay=0.0)
"""Retries of failed containers; errors that a retry cannot fix come back as values. What is preempted is started again
without counting as a retry, and has only the hours that are left (volumes/stage_container.py)."""
SETTINGS = cloud()
LIMITS, ASSISTANT = read_gateway().limits, read_gateway().assistant
SETTINGS.gateway.check_storage(LIMITS.storage)
SETTINGS.gateway.check_assistant(ASSISTANT.handlers)

NEEDED = read_needed_functions(sys.argv)

app = modal.App("tuneline")
unused = modal.App("tuneline-unused")
"""Never run: it declares the Functions that the running command does not call, so that their images are not built."""
deployed = app if NEEDED.all else unused
line: Any = {
    "volumes": mounted("models", "runs", "data"),
    "env": ENVIRONMENT,
    "retries": RETRIES,
    "single_use_containers": True,
}
FUNCTIONS: dict[StageFunction, "modal.Function[Any, Any, Any]"] = {}


def stage_function(*stages: str, on_gpu: bool = False, **settings: Any) -> Callable[[Any], Any]:
    """Declare the Function that runs `stages` on that hardware, in the image and with the resources of `settings`."""

    def declare(run: Any) -> Any:
        declaring = app if NEEDED.includes(stages[0], on_gpu=on_gpu) else unused
        function = declaring.function(**settings, **line)(run)
        FUNCTIONS.update({(stage, on_gpu): function for stage in stages})
        return function

    return declare


def limited_to(cores: float, memory_gib: float) -> Any:
    """Return the settings of a container that takes no more than it requests, so that its price is a bound.

    Beyond a request alone Modal lets it grow, and bills what it used (modal.com/docs/guide/resources).
    """
    memory_mib = int(1024 * memory_gib)
    return {"cpu": (cores, cores), "memory": (memory_mib, memory_mib)}


@stage_function("fetch", image=images.cpu.image, cpu=2, memory=8 * 1024, timeout=6 * HOUR)
def fetch_cpu(stage: str, recipe: str, run: str, awaited: str, stop_s: float) -> Outcome:
    return run_stage(stage, recipe, run, awaited, stop_s)


@stage_function("prepare", image=images.cpu.image, cpu=4, memory=16 * 1024, timeout=HOUR)
def prepare_cpu(stage: str, recipe: str, run: str, awaited: str, stop_s: float) -> Outcome:
    return run_stage(stage, recipe, run, awaited, stop_s)


@stage_function(
    "train", "preflight", on_gpu=True, image=images.train.image, gpu="H100", cpu=4, memory=32 * 1024, timeout=DAY
)
def train_h100(stage: str, recipe: str, run: str, awaited: str, stop_s: float) -> Outcome:
    return run_stage(stage, recipe, run, awaited, stop_s)


@stage_function("train", "preflight", image=images.train.on_cpu, cpu=8, memory=16 * 1024, timeout=DAY)
def train_cpu(stage: str, recipe: str, run: str, awaited: str, stop_s: float) -> Outcome:
    return run_stage(stage, recipe, run, awaited, stop_s)


@stage_function(
    "convert",
    image=images.convert.image,
    cpu=8,
    memory=32 * 1024,
    timeout=4 * HOUR,
    ephemeral_disk=CONVERT_DISK_MIB,
)
def convert_cpu(stage: str, recipe: str, run: str, awaited: str, stop_s: float) -> Outcome:
    return run_stage(stage, recipe, run, awaited, stop_s)


@stage_function(
    "convert",
    on_gpu=True,
    image=images.compress.image,
    cpu=8,
    memory=64 * 1024,
    timeout=DAY,
    ephemeral_disk=CONVERT_DISK_MIB,
)
def convert_compress(stage: str, recipe: str, run: str, awaited: str, stop_s: float) -> Outcome:
    return run_stage(stage, recipe, run, awaited, stop_s)


@stage_function(
    "evaluate", on_gpu=True, image=images.evaluate.image, gpu="A10", cpu=4, memory=32 * 1024, timeout=4 * HOUR
)
def evaluate_a10(stage: str, recipe: str, run: str, awaited: str, stop_s: float) -> Outcome:
    return run_stage(stage, recipe, run, awaited, stop_s)


@stage_function("evaluate", image=images.convert.image, cpu=4, memory=8 * 1024, timeout=4 * HOUR)
def evaluate_cpu(stage: str, recipe: str, run: str, awaited: str, stop_s: float) -> Outcome:
    return run_stage(stage, recipe, run, awaited, stop_s)


@app.function(
    image=images.cpu.image,
    cpu=(0.125, PIPELINE_CONTAINER.cores),
    memory=(int(1024 * PIPELINE_CONTAINER.memory_gib), int(1024 * PIPELINE_CONTAINER.memory_gib)),
    timeout=DAY,
    **line,
)
def pipeline_cpu(order: Order, awaited: str = "") -> Outcome:
    return run_pipeline(order, awaited, FUNCTIONS, pipeline_cpu)


@deployed.function(
    image=images.cpu.image,
    cpu=0.25,
    memory=512,
    timeout=HOUR // 2,  # a promotion reads all that it lets serve
    volumes=mounted("runs", "policy", "logs"),
    env=ENVIRONMENT,
    nonpreemptible=True,  # a call that is started again after its commit would be made twice
    max_containers=1,  # no file lock reaches from one container's Volume to another's: changes queue for this one
)
def policy_cpu(verb: str, words: list[str]) -> Outcome:
    return change_policy(verb, words)


@deployed.function(
    image=images.convert.image,
    cpu=(Schedule.cores, Schedule.cores),
    memory=(1024 * Schedule.memory_gib, 1024 * Schedule.memory_gib),
    # of it and the Function that waits for it
    timeout=SETTINGS.schedule.seconds(cores=Schedule.cores + 0.25, memory_gib=Schedule.memory_gib + 0.5),
    nonpreemptible=True,  # or the timeout, and with it the cost, would begin again
    volumes=mounted("data", "models", "runs", "policy", "scores"),
    env=ENVIRONMENT,
)
def evaluate_promoted_cpu() -> None:
    evaluate_promoted()


@deployed.function(
    image=images.cpu.image,
    cpu=0.25,
    memory=512,
    timeout=DAY,
    nonpreemptible=True,
    env=ENVIRONMENT,
    schedule=modal.Cron(SETTINGS.schedule.cron) if SETTINGS.schedule.cron else None,
)
def scheduled_cpu() -> None:
    evaluate_on_schedule(evaluate_promoted_cpu)


@deployed.cls(
    image=images.convert.image if SETTINGS.endpoint.form == "gguf" else images.serve.image,
    gpu=SETTINGS.endpoint.gpu,
    cpu=SETTINGS.endpoint.cores,
    memory=int(1024 * SETTINGS.endpoint.memory_gib),
    volumes=mounted("models", "runs", "policy", "cache", "logs"),
    env=ENVIRONMENT,
    timeout=HOUR,
    startup_timeout=int(60 * SETTINGS.endpoint.startup_minutes),
    min_containers=SETTINGS.endpoint.min_containers,
    max_containers=SETTINGS.endpoint.max_containers,
    scaledown_window=int(60 * SETTINGS.endpoint.scaledown_minutes),
)
@modal.concurrent(max_inputs=SETTINGS.endpoint.concurrency)
class Endpoint:
    """The engines of all promoted models. Modal only lets the gateway in, and starts no container for others."""

    @modal.enter()
    def start(self) -> None:
        """Start the engines: Modal sends a container requests when this has returned."""
        from tuneline.volumes.endpoint_container import start_engines

        self.engines = start_engines(SETTINGS.endpoint)

    @modal.asgi_app(requires_proxy_auth=True)
    def serve(self):  # type: ignore[no-untyped-def]
        return self.engines


@deployed.cls(
    image=images.gateway.image_for(ASSISTANT),
    **limited_to(SETTINGS.gateway.cores, SETTINGS.gateway.memory_gib),
    volumes=mounted("policy", "logs", *(("runs", "models") if ASSISTANT.run else ())),
    env=ENVIRONMENT,
    secrets=[modal.Secret.from_name(name) for name in SETTINGS.gateway.secrets],
    timeout=DAY,
    min_containers=SETTINGS.gateway.min_containers,
    max_containers=SETTINGS.gateway.max_containers,
    scaledown_window=int(60 * SETTINGS.gateway.scaledown_minutes),
)
@modal.concurrent(max_inputs=LIMITS.concurrency + LIMITS.queue)
class Gateway:
    """The address that clients have: everything promoted, and the models of `configs/gateway.yaml`."""

    @modal.enter()
    def start(self) -> None:
        """Read policy and settings."""
        from tuneline.volumes.gateway_container import find_url, start_gateway

        self.gateway = start_gateway(find_url(Endpoint().serve), find_url(Gateway().serve), policy_cpu, SETTINGS)

    @modal.asgi_app()
    def serve(self):  # type: ignore[no-untyped-def]
        return self.gateway


@(deployed if SETTINGS.ui else unused).cls(
    image=images.page.image,
    **limited_to(PAGE.cores, PAGE.memory_gib),
    volumes=mounted("policy", "logs", "ui"),
    env=ENVIRONMENT,
    timeout=DAY,
    max_containers=PAGE.max_containers,
    scaledown_window=int(60 * PAGE.scaledown_minutes),
)
@modal.concurrent(max_inputs=PAGE.inputs)
class Page:
    """The page (`ui: true` in cloud.yaml), for the owners of the gateway's keys."""

    @modal.enter()
    def start(self) -> None:
        """Read the policy."""
        from tuneline.volumes.gateway_container import find_url
        from tuneline.volumes.page_container import start_page

        self.page = start_page(find_url(Page().serve), find_url(Gateway().serve), policy_cpu)

    @modal.asgi_app()
    def serve(self):  # type: ignore[no-untyped-def]
        return self.page


@app.local_entrypoint()
def fetch(recipe: str = DEMO, run: str = "", only: bool = False, set: str = "") -> None:
    run_verb(pipeline_cpu, "fetch", recipe, run, only=only, settings=set)


@app.local_entrypoint()
def prepare(recipe: str = DEMO, run: str = "", only: bool = False, set: str = "") -> None:
    run_verb(pipeline_cpu, "prepare", recipe, run, only=only, settings=set)


@app.local_entrypoint()
def preflight(recipe: str = DEMO, run: str = "", only: bool = False, set: str = "") -> None:
    run_verb(pipeline_cpu, "preflight", recipe, run, only=only, settings=set)


@app.local_entrypoint()
def train(recipe: str = DEMO, run: str = "", only: bool = False, set: str = "") -> None:
    run_verb(pipeline_cpu, "train", recipe, run, only=only, settings=set)


@app.local_entrypoint()
def convert(recipe: str = DEMO, run: str = "", only: bool = False, set: str = "") -> None:
    run_verb(pipeline_cpu, "convert", recipe, run, only=only, settings=set)


@app.local_entrypoint()
def evaluate(recipe: str = DEMO, run: str = "", only: bool = False, set: str = "") -> None:
    run_verb(pipeline_cpu, "evaluate", recipe, run, only=only, settings=set)


@app.local_entrypoint()
def pipeline(recipe: str = DEMO, run: str = "", set: str = "") -> None:
    run_verb(pipeline_cpu, "evaluate", recipe, run, only=False, settings=set)


@app.local_entrypoint()
def sweep(recipe: str = DEMO, set: str = "", run: str = "", until: str = "evaluate") -> None:
    run_sweep(pipeline_cpu, until, recipe, run, set)
