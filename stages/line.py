"""The line: which stages there are, in which order they run, and how one is started in a process of its own."""

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

from tuneline.configs.recipe import RECIPE, Recipe
from tuneline.core import artifacts
from tuneline.core.artifacts import Artifact
from tuneline.core.child_processes import (
    child_process,
    describe_exit,
    log_tail,
    report_outcome,
    tuneline_environment,
)
from tuneline.core.errors import BadRequest, NotFound, StageFailed, StaleArtifact, TunelineError
from tuneline.core.events import Events, Follower
from tuneline.core.locks import run_lock
from tuneline.core.spending import PRICE, Meter, usd_per_hour
from tuneline.core.tracking import tracked

ORDER = ("fetch", "prepare", "train", "convert", "evaluate")
BESIDE = {"preflight": "prepare"}
"""Stages that nothing else needs, each with the last one before it."""
LAST_LINES = 12
LOOK_EVERY_S = 0.2

Follow = Callable[[dict[str, Any]], None]


def run_line(recipe: Recipe, until: str, call: Callable[[str], Artifact], *, only: bool = False) -> list[Artifact]:
    """Walk the stages up to `until`, or just that one; `call(stage)` makes or finds a stage's artifact.

    Raises:
        BadRequest: there is no such stage. Whatever `call` raises ends the walk.
    """
    walked = up_to(until)
    return [call(stage) for stage in (walked[-1:] if only else walked)]


def up_to(until: str) -> tuple[str, ...]:
    """The stages that a verb walks.

    Raises:
        BadRequest: there is no such stage.
    """
    if until in BESIDE:
        return (*up_to(BESIDE[until]), until)
    if until not in ORDER:
        raise BadRequest(f"{until!r} is no stage; there are {', '.join((*ORDER, *BESIDE))}")
    return ORDER[: ORDER.index(until) + 1]


def plan(recipe: Recipe, run: Path, stages: tuple[str, ...]) -> dict[str, str]:
    """`finished` or `to do` for each of `stages`.

    Raises:
        StaleArtifact: finished work was made from other settings.
    """
    return {stage: "finished" if finished(stage, recipe, run) else "to do" for stage in stages}


def execute(stage: str, recipe: Recipe, run: Path) -> Artifact:
    """Run one stage here, as the run's only writer; the recipe is written to the run's `recipe.json`.

    Raises:
        Locked: somebody else writes the run. StageFailed: the disk is full. Whatever the stage raises.
    """
    function = getattr(import_module(f"tuneline.stages.{stage}"), stage)
    with run_lock(run, stage), _recorded(recipe, run):
        events, started = Events(run, stage), time.monotonic()
        events.emit("started", **({"usd_per_hour": price} if (price := usd_per_hour()) else {}))
        try:
            made: Artifact = function(recipe, run)
        except Exception as error:
            if not _disk_is_full(error):
                raise
            raise StageFailed(
                f"{stage}: the disk of {run} is full; free some space and run the same command again: "
                "what was finished stays, and nothing half-written is trusted"
            ) from error
        events.emit("ended", seconds=round(time.monotonic() - started, 2))
        return made


@contextlib.contextmanager
def _recorded(recipe: Recipe, run: Path) -> Iterator[None]:
    """Written under the lock, and taken back if it is refused: a run's recipe is the one its artifacts come from."""
    file = run / RECIPE
    before = file.read_text() if file.exists() else None
    artifacts.write_atomic(file, recipe.model_dump_json(indent=1))
    try:
        yield
    except StaleArtifact:
        if before is not None:
            artifacts.write_atomic(file, before)
        raise


def _disk_is_full(error: BaseException) -> bool:
    """Libraries written in Rust and C++ pass the system's words on, not its number."""
    told = os.strerror(errno.ENOSPC)
    return getattr(error, "errno", None) == errno.ENOSPC or told in str(error)


def in_subprocess(
    recipe: Recipe, run: Path, follow: Follow, seconds: float | None = None, price: float | None = None
) -> Callable[[str], Artifact]:
    """A caller for `run_line`: each stage in a process of its own, its events given to `follow` as they come.

    A stage that is finished is only looked at. Errors come back as they were raised there. After `seconds` a stage is
    told to stop; training saves a checkpoint then, and the same call made again goes on from it. So it is when the run
    has cost `compute.max_cost_usd`, at `price` USD an hour.
    """
    price = usd_per_hour() if price is None else price

    def call(stage: str) -> Artifact:
        if done := finished(stage, recipe, run):
            follow({"stage": stage, "kind": "finished"})
            return done
        meter = Meter(recipe.compute.max_cost_usd, run, price)
        settings = recipe.section(stage) if hasattr(recipe, stage) else {}
        try:
            with tracked(run, stage, settings, lambda text: follow({"stage": stage, "kind": "warning", "text": text})):
                _start_and_follow(stage, recipe, run, follow, seconds, meter)
        except StageFailed as error:
            if meter.over():
                raise meter.error(f"{stage} was stopped, what was saved stays") from error
            raise
        done = finished(stage, recipe, run)
        if done is None:
            raise StageFailed(f"{stage} ended without its artifact; see {run / 'logs' / stage}.log")
        return done

    return call


def finished(stage: str, recipe: Recipe, run: Path) -> Artifact | None:
    """The stage's artifact if it is there and made from these settings; None also if what it needs is gone.

    The stage function itself decides: on finished work it compares fingerprints and imports nothing heavy.
    """
    with contextlib.suppress(NotFound):
        if stage == "fetch":
            from tuneline.stages.fetch.bases import open_base

            return open_base(recipe)
        if artifacts.finished(run / stage):
            made: Artifact = getattr(import_module(f"tuneline.stages.{stage}"), stage)(recipe, run)
            return made
    return None


def _start_and_follow(
    stage: str, recipe: Recipe, run: Path, follow: Follow, seconds: float | None, meter: Meter
) -> None:
    log, follower = run / "logs" / f"{stage}.log", Follower(run, from_end=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("ab") as output,
        child_process(
            "tuneline.stages.line",
            stage,
            str(run),
            request=recipe.model_dump_json(),
            stdout=output,
            stderr=subprocess.STDOUT,
            environment=_environment(stage, recipe) | ({PRICE: str(meter.price)} if meter.price else {}),
        ) as child,
    ):
        try:
            _follow(child.process, follower, follow, seconds, meter)
        finally:
            if child.process.poll() is None:
                follow({"stage": stage, "kind": "stopping"})
                child.process.terminate()  # training saves a checkpoint on SIGTERM
                child.process.wait()
        if code := child.process.returncode:
            child.outcome()
            raise StageFailed(
                f"{stage} {describe_exit(code)}; run the same command again: it goes on from the last checkpoint.\n"
                f"The end of {log}:\n{log_tail(log, LAST_LINES)}"
            )


def _follow(
    child: subprocess.Popen[bytes], follower: Follower, follow: Follow, seconds: float | None, meter: Meter
) -> None:
    running, told, deadline = True, False, None if seconds is None else time.monotonic() + seconds
    while running:
        if not told and (meter.over() or (deadline and time.monotonic() > deadline)):
            child.terminate()
            told = True
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(LOOK_EVERY_S)
        running = child.poll() is None
        for event in follower.new():
            follow(event)


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
    signal.signal(signal.SIGTERM, _stop)
    recipe = Recipe.model_validate_json(sys.stdin.read())
    return report_outcome(lambda: _execute_without_bugs(stage, recipe, run))


def _execute_without_bugs(stage: str, recipe: Recipe, run: Path) -> None:
    """Raises: TunelineError, and nothing else."""
    try:
        execute(stage, recipe, run)
    except TunelineError:
        raise
    except Exception as error:
        traceback.print_exc()
        raise StageFailed(f"{stage} failed in a way it should not; this is a bug:\n{traceback.format_exc()}") from error


def _stop(*_: Any) -> None:
    """An exit that runs every `finally`, so that what the stage started ends with it; then the signal as it was."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], Path(sys.argv[2])))
