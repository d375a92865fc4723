"""One stage, run here or in a child process: `python -m tuneline.stages.stage_process STAGE RUN OUTCOME`."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import RECIPE, Recipe, recipe_of
from tuneline.core.artifacts import Artifact
from tuneline.core.child_processes import (
    Child,
    child_process,
    describe_exit,
    log_tail,
    report_outcome,
    tuneline_environment,
)
from tuneline.core.current_run import current_run
from tuneline.core.errors import BadRecipe, StageFailed, StaleArtifact, TunelineError, explain_os_error
from tuneline.core.events import Events, Follower
from tuneline.core.files import write_atomic
from tuneline.core.locks import run_lock
from tuneline.core.meter import Meter
from tuneline.core.spending import PRICE_VARIABLE, read_usd_per_hour
from tuneline.core.terminal import guard_output

LAST_LINES = 12
"""Lines of a stage's log in its error."""
POLL_EVERY_S = 0.2
KILLED_AFTER = 0.75
"""Share of the time to stop after which a stage that has not ended is killed; the rest is for committing its files."""

Show = Callable[[dict[str, Any]], None]
"""Shows one event of a run."""


def run_stage(stage: str, recipe: Recipe, run: Path) -> Artifact:
    """Run one stage in this process, as the run's only writer; the recipe is written to the run's `recipe.json`.

    Raises:
        Locked: another process writes the run. StageFailed: the disk is full. Whatever the stage raises.
    """
    function = stage_function(stage)
    current_run.set(run.name)
    with run_lock(run, stage), _recorded_recipe(recipe, run):
        events, started = Events(run, stage), time.monotonic()
        if discard_outdated := getattr(import_module(function.__module__), "discard_outdated", None):
            discard_outdated(recipe, run)
        events.emit("started", **({"usd_per_hour": price} if (price := read_usd_per_hour()) else {}))
        try:
            artifact = function(recipe, run)
        except Exception as error:
            if not _is_disk_full(error):
                raise
            raise StageFailed(
                f"{stage}: the disk of {run} is full; free some space and run the same command again: "
                "finished work is kept, and incomplete files are discarded"
            ) from error
        events.emit("ended", seconds=round(time.monotonic() - started, 2))
        return artifact


@contextlib.contextmanager
def _recorded_recipe(recipe: Recipe, run: Path) -> Iterator[None]:
    """Write the run's recipe; restore the earlier one if it is stale, so that it is what the artifacts come from."""
    file = run / RECIPE
    before = file.read_text(encoding="utf-8", errors="replace") if file.exists() else None
    write_atomic(file, recipe.model_dump_json(indent=1))
    try:
        yield
    except StaleArtifact:
        if before is not None:
            write_atomic(file, before)
        raise


def restore_recipe(recipe: Recipe, run: Path) -> None:
    """Write the run's recipe again if its file is damaged; `recipe` is what the run's artifacts are made from."""
    try:
        recipe_of(run)
    except FileNotFoundError:
        return  # the base model is fetched, and the run has not begun
    except BadRecipe:
        with run_lock(run, "recipe"):
            write_atomic(run / RECIPE, recipe.model_dump_json(indent=1))


def _is_disk_full(error: BaseException) -> bool:
    """Return whether it is ENOSPC; libraries written in Rust and C++ pass on the system's message, not its number."""
    return getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error)


def stage_function(stage: str) -> Callable[[Recipe, Path], Artifact]:
    """Return the function that makes a stage's artifact; its package is imported only now."""
    function: Callable[[Recipe, Path], Artifact] = getattr(import_module(f"tuneline.stages.{stage}"), stage)
    return function


def run_in_child(stage: str, recipe: Recipe, run: Path, show: Show, meter: Meter) -> None:
    """Run a stage in a child process and pass its events to `show`; stop it when `meter` has reached a limit.

    What it prints goes to the run's `logs/STAGE.log`.

    Raises:
        StageFailed: it ended with an error code and left no error. Whatever the stage raised.
    """
    log, follower = run / "logs" / f"{stage}.log", Follower(run, from_end=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    price = {PRICE_VARIABLE: str(meter.usd_per_hour)} if meter.usd_per_hour else {}
    with (
        log.open("ab") as output,
        child_process(
            "tuneline.stages.stage_process",
            stage,
            str(run),
            request=recipe.to_json(),
            stdout=output,
            stderr=subprocess.STDOUT,
            environment=_environment(stage, recipe) | price,
        ) as child,
    ):
        try:
            _follow(child.process, follower, show, meter)
        finally:
            if child.process.poll() is None:
                show({"stage": stage, "kind": "stopping"})
                _stop(child.process, meter)
                show({"stage": stage, "kind": "stopped", "text": _describe_interruption(child)})
        if code := child.process.returncode:
            child.outcome()  # raises what the stage raised
            raise StageFailed(
                f"{stage} {describe_exit(code)}; run the same command again: it resumes from the last checkpoint.\n"
                f"The end of {log}:\n{log_tail(log, LAST_LINES)}"
            )


def _follow(child: subprocess.Popen[bytes], follower: Follower, show: Show, meter: Meter) -> None:
    """Show the child's events until it ends; stop it once a limit is reached."""
    running, deadline = True, None
    while running:
        meter.record()
        if deadline is None and meter.reached():
            child.terminate()
            deadline = _stop_deadline(meter)
        elif deadline and time.monotonic() > deadline:
            child.kill()
        running = _is_running(child)
        for event in follower.new_events():
            show(event)


def _stop(child: subprocess.Popen[bytes], meter: Meter) -> None:
    """End the child: SIGTERM, on which training saves a checkpoint, and SIGKILL after the time that is granted."""
    child.terminate()
    deadline = _stop_deadline(meter)
    while _is_running(child):
        meter.record()
        if deadline and time.monotonic() > deadline:
            child.kill()


def _describe_interruption(child: Child) -> str:
    """Return what a child says that was stopped: where it ended, and how to go on."""
    try:
        child.outcome()
    except TunelineError as error:
        return str(error)
    return "interrupted; the same command continues"


def _stop_deadline(meter: Meter) -> float | None:
    """Return when a child that is told to stop now is killed; None where nothing limits its time."""
    return time.monotonic() + KILLED_AFTER * meter.stop_s if meter.stop_s else None


def _is_running(child: subprocess.Popen[bytes]) -> bool:
    """Return whether the child still runs after `POLL_EVERY_S`."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(POLL_EVERY_S)
    return child.poll() is None


def _environment(stage: str, recipe: Recipe) -> dict[str, str]:
    threads = str(recipe.compute.threads or len(os.sched_getaffinity(0)))
    variables = {
        "OMP_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads cost 2-3x where cores are shared
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if stage != "fetch":
        variables |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return tuneline_environment() | variables


def _main(stage: str, run: Path) -> int:
    """Run one stage in the child process and return its exit code."""
    signal.signal(signal.SIGTERM, _exit)
    guard_output()  # its log is read in terminals, and a library's traceback may quote an address
    recipe = Recipe.model_validate_json(sys.stdin.read())
    return report_outcome(lambda: _run_reporting_bugs(stage, recipe, run))


def _run_reporting_bugs(stage: str, recipe: Recipe, run: Path) -> None:
    """Run the stage; an error of the machine becomes a StageFailed, and so does a bug, with its traceback."""
    try:
        run_stage(stage, recipe, run)
    except TunelineError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and (message := explain_os_error(error)):
            raise StageFailed(f"{stage}: {message}") from error
        traceback.print_exc()
        raise describe_bug(stage) from error


def describe_bug(stage: str) -> StageFailed:
    """Return the error to raise instead of the exception that is being handled, with its traceback."""
    return StageFailed(f"{stage} failed unexpectedly; this is a bug:\n{traceback.format_exc()}")


def _exit(*_: Any) -> None:
    """Exit so that every `finally` runs and what the stage started ends with it; a second SIGTERM ends it at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], Path(sys.argv[2])))
