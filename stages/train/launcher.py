"""Starts a training in this process, or in several by torchrun, with the whole model (DDP) or a shard (FSDP2) each."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuneline.core import artifacts, errors
from tuneline.core.child_processes import bind_to_parent, tuneline_environment
from tuneline.core.environment import read_variable
from tuneline.core.errors import StageFailed
from tuneline.core.events import Events
from tuneline.stages.train.distributed.device_memory import (
    OutOfMemory,
    describe_out_of_memory,
    free_cached_memory,
    read_gpu_bytes,
)
from tuneline.stages.train.distributed.placement import halve_rows, place
from tuneline.stages.train.job import TrainingJob, write_job

TORCHRUN = "TUNELINE_TORCHRUN"
"""Environment variable with torchrun's options for several nodes, which all see the run's folder:
`--nnodes=2 --node-rank=0 --master-addr=… --master-port=…`. docs/training.md says how the other nodes join."""
HALVINGS = 3


def launch(job: TrainingJob) -> dict[str, float]:
    """Train in as many processes as the recipe says, or one per GPU; return what `fit` returns.

    Out of memory, training continues from the last checkpoint with half the rows at a time and twice the accumulation,
    at most three times: a step has the same rows, and the loss continues where it was.

    Raises:
        StageFailed: a process ended without a result, or memory never sufficed. Also whatever one of them raised.
    """
    import torch

    recipe, events = job.recipe, Events(job.run, "train")
    processes = (recipe.compute.processes or max(1, torch.cuda.device_count())) * _count_nodes()
    gpu_bytes = read_gpu_bytes()
    placement = place(recipe, job.base, job.run, processes, gpu_bytes)
    if gpu_bytes or processes > 1:
        rows = f"{placement.rows} rows at a time"
        events.emit("note", text=f"{processes} processes, {placement.strategy}, {rows}: {placement.reason}")
    for attempt in range(HALVINGS + 1):
        try:
            return _train_placed(replace(job, recipe=placement.apply(recipe)), processes)
        except OutOfMemory as error:
            message, rows_tried = str(error), placement.rows
        if rows_tried == 1 or attempt == HALVINGS:
            raise StageFailed(
                f"train: out of memory with {rows_tried} rows at a time: {message}; {placement.reason}. "
                "Use a GPU with more memory, more of them with compute.strategy fsdp2, method qlora, or a lower "
                "data.max_tokens"
            )
        halved = replace(placement, rows=halve_rows(recipe, processes, rows_tried))
        placement = place(halved.apply(recipe), job.base, job.run, processes, gpu_bytes)
        text = f"out of memory with {rows_tried} rows at a time; continuing with {placement.rows}: {message}"
        events.emit("warning", text=text)
    raise AssertionError("unreachable")


def _train_placed(job: TrainingJob, processes: int) -> dict[str, float]:
    return _train_in_this_process(job) if processes == 1 else _train_by_torchrun(job, processes)


def _train_in_this_process(job: TrainingJob) -> dict[str, float]:
    from tuneline.stages.train.loop.fit import fit

    try:
        return fit(job, Events(job.run, "train"))
    except Exception as error:
        if (message := describe_out_of_memory(error)) is None:
            raise
    free_cached_memory()  # out of the except block, where the error's traceback still holds the model
    raise OutOfMemory(message)


def _train_by_torchrun(job: TrainingJob, processes: int) -> dict[str, float]:
    scratch = job.folder / artifacts.SCRATCH
    scratch.mkdir(exist_ok=True)
    job_file, outcome = scratch / "job.json", scratch / "outcome.json"
    outcome.unlink(missing_ok=True)
    write_job(job_file, job, outcome)
    _run_workers(job_file, processes // _count_nodes())
    if not outcome.exists():
        raise StageFailed(
            f"train: the {processes} processes ended without a result; run the same command again: it resumes "
            f"from the last checkpoint. {job.run / 'logs' / 'train.log'} has the details"
        )
    result = json.loads(outcome.read_text())
    if result.get("kind") == OutOfMemory.__name__:
        raise OutOfMemory(result["message"])
    if "kind" in result:
        raise errors.from_record(result)
    metrics: dict[str, float] = result["metrics"]
    return metrics


def _run_workers(job_file: Path, processes: int) -> None:
    """Start the workers and wait; a SIGTERM is sent on to each of them, so that they save a checkpoint together."""
    command = [sys.executable, "-m", "torch.distributed.run", *_torchrun_options(), f"--nproc-per-node={processes}"]
    command += ["-m", "tuneline.stages.train.worker", str(job_file)]
    pids = job_file.parent / "pids"
    pids.mkdir(exist_ok=True)
    for stale in pids.iterdir():
        stale.unlink()

    def forward(*_: Any) -> None:
        for file in pids.glob(f"*@{socket.gethostname()}"):  # workers on other nodes learn of it from these
            os.kill(int(file.name.partition("@")[0]), signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, forward)
    bind = functools.partial(bind_to_parent, os.getpid())
    try:
        subprocess.run(command, env=tuneline_environment(), check=False, preexec_fn=bind)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _torchrun_options() -> list[str]:
    return read_variable(TORCHRUN, "--standalone").split()


def _count_nodes() -> int:
    options = _torchrun_options()
    return next((int(option.partition("=")[2]) for option in options if option.startswith("--nnodes=")), 1)
