"""Weights & Biases: one more reader of a run's events, in a process of its own that nobody waits for.

On if WANDB_API_KEY is set, or WANDB_MODE is `offline`; off if WANDB_MODE is `disabled`. It follows `events.jsonl`, so
nothing that W&B does or fails to do can reach the run.
"""

import contextlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tuneline.core.child_processes import python_path
from tuneline.core.events import FILE, Follower

PROJECT = "tuneline"
LOOK_EVERY_S = 1.0
END_S = 20.0
"""It gets so long to send the rest when a stage is over."""
OFF = ("disabled", "off")


@contextlib.contextmanager
def tracked(run: Path, stage: str, settings: dict[str, Any], tell: Callable[[str], None]) -> Iterator[None]:
    """Sends the stage's events from here on; does nothing where W&B is off. `tell` gets what the user should know.

    A stage that goes on after a checkpoint goes on in the same W&B run, because the run's id is made of its name.
    """
    if not _is_on():
        yield
        return
    if importlib.util.find_spec("wandb") is None:
        tell("W&B: wandb is not installed here, nothing is sent; `pip install wandb` brings it")
        yield
        return
    events, log = run / FILE, run / "logs" / "wandb.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    offset = events.stat().st_size if events.exists() else 0
    job = {"run": str(run), "stage": stage, "settings": settings, "offset": offset}
    told = log.with_suffix(".json")  # a suite's settings may be too long for a command line
    told.write_text(json.dumps(job))
    with log.open("ab") as output:
        reader = subprocess.Popen(
            [sys.executable, "-m", "tuneline.core.tracking", str(told)],
            stdin=subprocess.PIPE,  # its end means: the stage is over
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C is not for it, and it ends with all that it started
        )
    try:
        yield
    finally:
        assert reader.stdin
        reader.stdin.close()
        try:
            if code := reader.wait(END_S):
                tell(f"W&B: ended with {code}; the run has everything in {FILE}; see {log}")
        except subprocess.TimeoutExpired:
            os.killpg(reader.pid, signal.SIGKILL)  # what wandb started as well
            reader.wait()
            tell(f"W&B: did not answer for {END_S:.0f} s and was left behind; the run has everything in {FILE}")


def alert(name: str, text: str, tell: Callable[[str], None]) -> None:
    """One alert in a W&B run of its own; what goes wrong is told, and takes `END_S` at most."""
    if not _is_on() or importlib.util.find_spec("wandb") is None:
        return
    command = [sys.executable, "-m", "tuneline.core.tracking"]
    try:
        subprocess.run(
            command,
            input=json.dumps({"name": name, "text": text}),
            env=_environment(),
            timeout=END_S,
            check=True,
            capture_output=True,
            text=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        lines = str(error.stderr or "").strip().splitlines()
        tell(f"W&B did not take the message: {lines[-1] if lines else f'no answer for {END_S:.0f} s'}")


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": python_path(sys.path)}


def _is_on() -> bool:
    mode = os.environ.get("WANDB_MODE", "")
    return mode not in OFF and (bool(os.environ.get("WANDB_API_KEY")) or mode == "offline")


def _read(job: dict[str, Any]) -> None:
    """What the process does: init, follow, finish; its standard input's end ends it."""
    import wandb

    run, stage = Path(job["run"]), job["stage"]
    follower = Follower(run, offset=job["offset"])
    with wandb.init(
        project=PROJECT,
        id=f"{run.name}-{stage}",
        name=run.name,
        group=run.name,
        job_type=stage,
        resume="allow",
        config=job["settings"],
        settings=wandb.Settings(silent=True, console="off"),
    ) as session:
        over = False
        while not over:
            over = bool(select.select([sys.stdin], [], [], LOOK_EVERY_S)[0])
            for event in follower.new():
                if event["stage"] == stage:
                    _send(session, wandb, run.name, event)


def _send(session: Any, wandb: Any, run: str, event: dict[str, Any]) -> None:
    stage, step = event["stage"], event.get("step")
    if event["kind"] == "metrics":
        numbers = {key: value for key, value in event.items() if isinstance(value, int | float) and key != "step"}
        session.log({f"{stage}/{key}": value for key, value in numbers.items()} | {f"{stage}/step": step})
    elif event["kind"] == "sample":
        columns = ["prompt", "wanted", "got"]
        table = wandb.Table(columns=columns, data=[[one[name] for name in columns] for one in event["samples"]])
        session.log({f"{stage}/samples": table, f"{stage}/step": step})
    elif event["kind"] == "warning":
        session.alert(title=f"{run}: {stage}", text=event["text"])


def _alert(job: dict[str, str]) -> None:
    import wandb

    name = f"{job['name']}-notice"
    quiet = wandb.Settings(silent=True, console="off")
    with wandb.init(project=PROJECT, id=name, name=name, resume="allow", settings=quiet) as session:
        session.alert(title=f"{job['name']}: notice", text=job["text"])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _read(json.loads(Path(sys.argv[1]).read_text()))
    else:
        _alert(json.load(sys.stdin))
