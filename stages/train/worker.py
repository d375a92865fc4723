"""One of several processes of a training, started by torchrun: `python -m tuneline.stages.train.worker job.json`."""

import json
import os
import socket
import sys
import traceback
from pathlib import Path

from tuneline.core import errors
from tuneline.core.child_processes import bind_to_parent, last_lines
from tuneline.core.environment import read_variable
from tuneline.core.errors import ErrorRecord, StageFailed, TunelineError
from tuneline.core.events import Events, SilentEvents
from tuneline.core.files import write_atomic
from tuneline.stages.train.distributed.device_memory import OutOfMemory, describe_out_of_memory
from tuneline.stages.train.distributed.placement import STRATEGY
from tuneline.stages.train.job import WorkerJob, read_job

LAST_LINES = 12
"""Of a traceback, shown in the error."""


def main(file: Path) -> int:
    """Train together with the other processes; the main process writes the metrics, the first to fail its error."""
    bind_to_parent(os.getppid())  # torchrun may be killed
    (file.parent / "pids" / f"{os.getpid()}@{socket.gethostname()}").touch()
    job = read_job(file)
    os.environ[STRATEGY] = job.strategy
    try:
        _train(job)
    except TunelineError as error:
        _write_error(job.outcome, errors.to_record(error))
        return 1
    except Exception as error:
        traceback.print_exc()
        if message := describe_out_of_memory(error):
            _write_error(job.outcome, {"kind": OutOfMemory.__name__, "message": message})
            return 1
        tail = last_lines(traceback.format_exc(), LAST_LINES)
        rank = read_variable("RANK")
        failure = StageFailed(f"train: process {rank} failed:\n{tail}")
        _write_error(job.outcome, errors.to_record(failure))
        return 1
    finally:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def _train(job: WorkerJob) -> None:
    import torch

    from tuneline.stages.train.distributed.fsdp2 import adapt_accelerate
    from tuneline.stages.train.distributed.process_group import join_process_group
    from tuneline.stages.train.loop.fit import fit

    if torch.cuda.is_available():
        torch.cuda.set_device(int(read_variable("LOCAL_RANK")))
    join_process_group()
    if job.strategy == "fsdp2":
        adapt_accelerate(on_cpu=not torch.cuda.is_available())
    is_main = read_variable("RANK") == "0"
    run = job.training.run
    metrics = fit(job.training, Events(run, "train") if is_main else SilentEvents(run, "train"))
    if is_main:
        write_atomic(job.outcome, json.dumps({"metrics": metrics}))


def _write_error(outcome: Path, error: ErrorRecord) -> None:
    if not outcome.exists():
        write_atomic(outcome, json.dumps(error))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
