"""The line: which stages there are, in which order they run, and how one is started in a process of its own."""

import contextlib
import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import artifact, errors
from stages.artifact import Artifact
from stages.errors import BadRequest, StageFailed, TunelineError
from stages.events import Events, Follower
from stages.lock import run_lock

if TYPE_CHECKING:
    from configs.recipe import Recipe

ORDER = ("fetch", "prepare", "train", "convert", "evaluate")
RECIPE = "recipe.json"
OUTCOME = "outcome.json"
LAST_LINES = 12
LOOK_EVERY_S = 0.2
PR_SET_PDEATHSIG = 1

Follow = Callable[[dict[str, Any]], None]


def run_line(recipe: "Recipe", until: str, call: Callable[[str], Artifact], *, only: bool = False) -> list[Artifact]:
    """Walk the stages up to `until`, or just that one; `call(stage)` makes or finds a stage's artifact.

    Raises:
        BadRequest: there is no such stage. Whatever `call` raises ends the walk.
    """
    if until not in ORDER:
        raise BadRequest(f"{until!r} is no stage; there are {', '.join(ORDER)}")
    return [call(stage) for stage in ((until,) if only else ORDER[: ORDER.index(until) + 1])]


def plan(recipe: "Recipe", run: Path, stages: tuple[str, ...]) -> dict[str, str]:
    """`finished` or `to do` for each of `stages`.

    Raises:
        StaleArtifact: finished work was made from other settings.
    """
    return {stage: "finished" if _finished(stage, recipe, run) else "to do" for stage in stages}


def execute(stage: str, recipe: "Recipe", run: Path) -> Artifact:
    """Run one stage here, as the run's only writer.

    Raises:
        Locked: somebody else writes the run. StageFailed: the disk is full. Whatever the stage raises.
    """
    function = getattr(import_module(f"stages.{stage}"), stage)
    with run_lock(run, stage):
        events, started = Events(run, stage), time.monotonic()
        events.emit("started")
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


def _disk_is_full(error: BaseException) -> bool:
    """Libraries written in Rust and C++ pass the system's words on, not its number."""
    told = os.strerror(errno.ENOSPC)
    return getattr(error, "errno", None) == errno.ENOSPC or told in str(error)


def in_subprocess(recipe: "Recipe", run: Path, follow: Follow) -> Callable[[str], Artifact]:
    """A caller for `run_line`: each stage in a process of its own, its events given to `follow` as they come.

    A stage that is finished is only looked at. Errors come back as they were raised there.
    """

    def call(stage: str) -> Artifact:
        if done := _finished(stage, recipe, run):
            follow({"stage": stage, "kind": "finished"})
            return done
        run.mkdir(parents=True, exist_ok=True)
        artifact.write_atomic(run / RECIPE, recipe.model_dump_json(indent=1))
        _start_and_follow(stage, recipe, run, follow)
        done = _finished(stage, recipe, run)
        if done is None:
            raise StageFailed(f"{stage} ended without its artifact; see {run / 'logs' / stage}.log")
        return done

    return call


def _finished(stage: str, recipe: "Recipe", run: Path) -> Artifact | None:
    """The stage's artifact if it is there and made from these settings.

    The stage function itself decides: on finished work it compares fingerprints and imports nothing heavy.
    """
    if stage == "fetch":
        from stages.fetch import open_base

        with contextlib.suppress(errors.NotFound):
            return open_base(recipe)
        return None
    if not artifact.finished(run / stage):
        return None
    made: Artifact = getattr(import_module(f"stages.{stage}"), stage)(recipe, run)
    return made


def _start_and_follow(stage: str, recipe: "Recipe", run: Path, follow: Follow) -> None:
    log, outcome, follower = run / "logs" / f"{stage}.log", run / OUTCOME, Follower(run, from_end=True)
    log.parent.mkdir(exist_ok=True)
    outcome.unlink(missing_ok=True)
    command = [sys.executable, "-m", "stages.line", stage, str(run)]
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=_environment(stage, recipe),
            preexec_fn=_die_with_parent,
        )
    try:
        while child.poll() is None:
            for event in follower.new():
                follow(event)
            time.sleep(LOOK_EVERY_S)
    finally:
        if child.poll() is None:
            child.terminate()  # training saves a checkpoint on SIGTERM
            child.wait()
    for event in follower.new():
        follow(event)
    if child.returncode:
        raise _error(stage, child.returncode, outcome, log)


def _error(stage: str, code: int, outcome: Path, log: Path) -> TunelineError:
    if outcome.exists():
        told = json.loads(outcome.read_text())
        kind = getattr(errors, told["error"])
        return kind(told["message"])  # type: ignore[no-any-return]
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    last = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
    return StageFailed(f"{stage} {how}; the same command goes on from what was saved. The end of {log}:\n{last}")


def _environment(stage: str, recipe: "Recipe") -> dict[str, str]:
    threads = str(recipe.compute.threads or len(os.sched_getaffinity(0)))
    ours = {
        "OMP_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads cost 2-3x where cores are shared
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(":"),
    }
    if stage != "fetch":
        ours |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return os.environ | ours


def _die_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _main(stage: str, run: Path) -> int:
    from configs.recipe import Recipe

    try:
        execute(stage, Recipe.model_validate_json((run / RECIPE).read_text()), run)
    except TunelineError as error:
        artifact.write_atomic(run / OUTCOME, json.dumps({"error": type(error).__name__, "message": str(error)}))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], Path(sys.argv[2])))
