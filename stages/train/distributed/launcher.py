"""Training in one process, or in several by torchrun: a model each (DDP), or a shard each (FSDP2)."""

import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts, errors
from tuneline.core.child_processes import bind_to_parent, tuneline_environment
from tuneline.core.errors import ErrorRecord, StageFailed, TunelineError
from tuneline.core.events import Events, SilentEvents
from tuneline.core.files import write_atomic
from tuneline.stages.train.distributed.placement import fewer, placement

STRATEGY = "TUNELINE_STRATEGY"
"""The environment variable that tells a worker how they share."""
TORCHRUN = "TUNELINE_TORCHRUN"
"""The environment variable with torchrun's words for several nodes, which all see the run's folder:
`--nnodes=2 --node-rank=0 --master-addr=… --master-port=…`. docs/training.md says how the others join."""
HALVINGS = 3
LAST_LINES = 12


def launch(recipe: Recipe, base: Path, prepared: Path, folder: Path, run: Path, start: Path | None) -> dict[str, float]:
    """`fit`, in as many processes as the recipe says or there are GPUs; what it returns.

    Out of memory, it goes on from the last checkpoint with half the rows at a time and twice the accumulation, at most
    three times: the same rows make a step, and the loss goes on.

    Raises:
        StageFailed: a process ended without a result, or memory never sufficed. Whatever one of them raised.
    """
    import torch

    processes = (recipe.compute.processes or max(1, torch.cuda.device_count())) * _nodes()
    memory, events = _memory(), Events(run, "train")
    place = placement(recipe, base, run, processes, memory)
    if memory or processes > 1:
        events.emit("note", text=f"{processes} processes, {place.strategy}, {place.rows} rows at a time: {place.why}")
    for attempt in range(HALVINGS + 1):
        try:
            return _once(place.of(recipe), base, prepared, folder, run, start, processes)
        except OutOfMemory as error:
            told, rows = str(error), place.rows
        if rows == 1 or attempt == HALVINGS:
            raise StageFailed(
                f"train: out of memory with {rows} rows at a time: {told}; {place.why}. Take a GPU with more memory, "
                "more of them with compute.strategy fsdp2, method qlora, or a lower data.max_tokens"
            )
        halved = dataclasses.replace(place, rows=fewer(recipe, processes, rows))
        place = placement(halved.of(recipe), base, run, processes, memory)
        events.emit("warning", text=f"out of memory with {rows} rows at a time; goes on with {place.rows}: {told}")
    raise AssertionError("unreachable")


class OutOfMemory(Exception):
    """A device, or this machine, had no memory left; says what was measured."""


def _once(
    recipe: Recipe, base: Path, prepared: Path, folder: Path, run: Path, start: Path | None, processes: int
) -> dict[str, float]:
    events = Events(run, "train")
    if processes == 1:
        from tuneline.stages.train.loop.fit import fit

        try:
            return fit(recipe, base, prepared, folder, events, start)
        except Exception as error:
            if (measured := _out_of_memory(error)) is None:
                raise
        _free()  # only here the failed attempt's model is no longer held by its traceback
        raise OutOfMemory(measured)
    scratch = folder / artifacts.SCRATCH
    scratch.mkdir(exist_ok=True)
    job, outcome = scratch / "job.json", scratch / "outcome.json"
    outcome.unlink(missing_ok=True)
    paths = {"base": base, "prepared": prepared, "folder": folder, "run": run, "start": start}
    told: dict[str, str | None] = {name: str(path) if path else None for name, path in paths.items()}
    told["strategy"] = recipe.compute.strategy
    write_atomic(job, json.dumps(told | {"recipe": recipe.model_dump_json(), "outcome": str(outcome)}))
    _torchrun(job, processes // _nodes())
    if not outcome.exists():
        raise StageFailed(
            f"train: the {processes} processes ended without a result; run the same command again: "
            f"it goes on from the last checkpoint. {run / 'logs' / 'train.log'} says how they ended"
        )
    result = json.loads(outcome.read_text())
    if result.get("kind") == OutOfMemory.__name__:
        raise OutOfMemory(result["message"])
    if "kind" in result:
        raise errors.from_record(result)
    metrics: dict[str, float] = result["metrics"]
    return metrics


def _out_of_memory(error: BaseException) -> str | None:
    """What was measured if that is what went wrong; torch has a class for it on GPUs, and on CPUs only words."""
    import torch

    from tuneline.stages.train.loop.monitoring import peak_memory_gb

    if isinstance(error, torch.OutOfMemoryError):
        return f"{peak_memory_gb():.1f} GB in use at most"
    return "no memory left on this machine" if "can't allocate memory" in str(error) else None


def _free() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _memory() -> int | None:
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _torchrun(job: Path, processes: int) -> None:
    """Start the workers and wait; a SIGTERM goes to each of them, so that they save a checkpoint together."""
    command = [sys.executable, "-m", "torch.distributed.run", *_words(), f"--nproc-per-node={processes}"]
    command += ["-m", "tuneline.stages.train.distributed.launcher", str(job)]
    pids = job.parent / "pids"
    pids.mkdir(exist_ok=True)
    for old in pids.iterdir():
        old.unlink()

    def forward(*_: Any) -> None:
        for file in pids.glob(f"*@{socket.gethostname()}"):  # those of other nodes hear of it from these
            os.kill(int(file.name.partition("@")[0]), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, forward)
    bind = functools.partial(bind_to_parent, os.getpid())
    try:
        subprocess.run(command, env=tuneline_environment(), check=False, preexec_fn=bind)
    finally:
        signal.signal(signal.SIGTERM, before)


def _words() -> list[str]:
    return os.environ.get(TORCHRUN, "--standalone").split()


def _nodes() -> int:
    return next((int(word.partition("=")[2]) for word in _words() if word.startswith("--nnodes=")), 1)


def _worker(job: Path) -> int:
    """One of the processes; the first that has something to tell writes it down."""
    bind_to_parent(os.getppid())  # dies with torchrun, which may be killed
    (job.parent / "pids" / f"{os.getpid()}@{socket.gethostname()}").touch()
    told = json.loads(job.read_text())
    os.environ[STRATEGY] = told["strategy"]
    path = {name: Path(told[name]) if told[name] else None for name in ("base", "prepared", "folder", "run", "start")}
    recipe, outcome = Recipe.model_validate_json(told["recipe"]), Path(told["outcome"])
    first = os.environ["RANK"] == "0"
    base, prepared, folder, run = path["base"], path["prepared"], path["folder"], path["run"]
    assert base and prepared and folder and run
    try:
        import torch

        from tuneline.stages.train.distributed.fsdp2 import shard_on_cpu
        from tuneline.stages.train.loop.fit import fit

        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        elif os.environ[STRATEGY] == "fsdp2":
            shard_on_cpu()
        events = Events(run, "train") if first else SilentEvents(run, "train")
        metrics = fit(recipe, base, prepared, folder, events, path["start"])
        if first:
            write_atomic(outcome, json.dumps({"metrics": metrics}))
    except TunelineError as error:
        _tell(outcome, errors.to_record(error))
        return 1
    except Exception as error:
        traceback.print_exc()
        if measured := _out_of_memory(error):
            _tell(outcome, {"kind": OutOfMemory.__name__, "message": measured})
            return 1
        last = "\n".join(traceback.format_exc().splitlines()[-LAST_LINES:])
        failure = StageFailed(f"train: process {os.environ['RANK']} failed:\n{last}")
        _tell(outcome, errors.to_record(failure))
        return 1
    finally:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def _tell(outcome: Path, error: ErrorRecord) -> None:
    if not outcome.exists():
        write_atomic(outcome, json.dumps(error))


if __name__ == "__main__":
    sys.exit(_worker(Path(sys.argv[1])))
