"""Weights & Biases: one more reader of a run's events, in a process of its own that nobody waits for.

It is on if WANDB_API_KEY is set or WANDB_MODE is `offline`, and off if WANDB_MODE is `disabled` or `off`. The process
follows `events.jsonl`, so nothing that W&B does or fails to do can reach the run.
"""

import contextlib
import importlib.util
import json
import os
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tuneline.core.artifacts import DRAFT
from tuneline.core.child_processes import python_path
from tuneline.core.environment import read_variable
from tuneline.core.events import FILE, Follower
from tuneline.core.files import write_atomic
from tuneline.core.redaction import redact
from tuneline.core.web_requests import without_credentials

PROJECT = "tuneline"
POLL_EVERY_S = 1.0
END_S = 20.0
"""How long the process may take to send the rest when a stage is over."""
OFF = ("disabled", "off")
URL_VARIABLE = "WANDB_BASE_URL"
IDS = "wandb.json"
"""File in the run's folder with the id of its run in W&B, and the stages that were sent to it."""


@contextlib.contextmanager
def track(run: Path, stage: str, settings: dict[str, Any], warn: Callable[[str], None]) -> Iterator[None]:
    """Send the stage's events to W&B from here to the end of the block, if W&B is on; `warn` gets what went wrong.

    All stages of a run are sent to one W&B run, also by later commands and after a stop. A stage that is made again
    begins a new one, which the stages after it join, so that two curves, or two people's runs of one name, never mix.
    """
    if not _is_on():
        yield
        return
    if importlib.util.find_spec("wandb") is None:
        warn("W&B: wandb is not installed, so nothing is sent; `pip install wandb`")
        yield
        return
    log = run / "logs" / "wandb.log"
    process = _start_sender(run, stage, settings, log)
    try:
        yield
    finally:
        _end_sender(process, log, warn)


def _start_sender(run: Path, stage: str, settings: dict[str, Any], log: Path) -> "subprocess.Popen[bytes]":
    events = run / FILE
    log.parent.mkdir(parents=True, exist_ok=True)
    before = events.read_bytes() if events.exists() else b""
    job = {
        "run": str(run),
        "stage": stage,
        "settings": settings,
        "offset": len(before),
        "number": before.count(b"\n"),
        "id": _choose_id(run, stage),
    }
    job_file = log.with_suffix(".json")  # a suite's settings may be too long for a command line
    job_file.write_text(json.dumps(job))
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tuneline.core.tracking", str(job_file)],
            stdin=subprocess.PIPE,  # closing it means: the stage is over
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C does not reach it, and the processes it started can be killed with it
        )


def _choose_id(run: Path, stage: str) -> str:
    """Return the id of the run's W&B run, for its stage `stage`; `wandb.json` keeps it for the next one."""
    kept: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        kept = dict(json.loads((run / IDS).read_text()))
    sent = [name for name in kept.get("stages", ()) if isinstance(name, str)]
    is_resumed = (run / stage / DRAFT).exists()
    if not isinstance(kept.get("id"), str) or (stage in sent and not is_resumed):
        kept, sent = {"id": f"{run.name}-{secrets.token_hex(4)}"}, []
    write_atomic(run / IDS, json.dumps({"id": kept["id"], "stages": [*dict.fromkeys([*sent, stage])]}))
    return str(kept["id"])


def _end_sender(process: "subprocess.Popen[bytes]", log: Path, warn: Callable[[str], None]) -> None:
    assert process.stdin
    process.stdin.close()
    try:
        if code := process.wait(END_S):
            warn(f"W&B: ended with {code}; all metrics are in the run's {FILE}; see {log}")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # and what wandb started
        process.wait()
        warn(f"W&B: did not answer for {END_S:.0f} s and was stopped; all metrics are in the run's {FILE}")
    written = log.read_text(encoding="utf-8", errors="replace")
    if (redacted := redact(written)) != written:  # wandb quotes its server's address
        write_atomic(log, redacted)


def alert(name: str, text: str, warn: Callable[[str], None]) -> None:
    """Send one alert in a W&B run of its own, if W&B is on; `warn` gets a failure. Takes `END_S` at most."""
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
        warn(f"W&B did not accept the message: {redact(lines[-1]) if lines else f'no answer for {END_S:.0f} s'}")


def _environment() -> dict[str, str]:
    # wandb authorizes itself by its key alone, and writes its server's address to logs of its own.
    url = read_variable(URL_VARIABLE)
    server = {URL_VARIABLE: without_credentials(url)} if url else {}
    return os.environ | {"PYTHONPATH": python_path(sys.path)} | server


def _is_on() -> bool:
    mode = read_variable("WANDB_MODE")
    return mode not in OFF and (bool(read_variable("WANDB_API_KEY")) or mode == "offline")


def _send_events(job: dict[str, Any]) -> None:
    """Follow the run's events and send them, until standard input is closed."""
    import wandb

    run, stage = Path(job["run"]), job["stage"]
    follower = Follower(run, offset=job["offset"])
    number = job["number"]
    with wandb.init(
        project=PROJECT,
        id=job["id"],
        name=run.name,
        resume="allow",
        settings=wandb.Settings(silent=True, console="off"),
    ) as session:
        session.config.update(job["settings"], allow_val_change=True)
        session.define_metric(f"{stage}/*", step_metric=f"{stage}/step")  # stages count their steps for themselves
        over = False
        while not over:
            over = bool(select.select([sys.stdin], [], [], POLL_EVERY_S)[0])
            for event in follower.new_events():
                number += 1
                if event["stage"] == stage:
                    _send_event(session, wandb, run.name, event, number)


def _send_event(session: Any, wandb: Any, run: str, event: dict[str, Any], number: int) -> None:
    """Send one event; its `number` among the run's is W&B's step, which must rise over all stages and attempts."""
    stage, step = event["stage"], event.get("step")
    if event["kind"] == "metrics":
        numbers = {key: value for key, value in event.items() if isinstance(value, int | float) and key != "step"}
        session.log({f"{stage}/{key}": value for key, value in numbers.items()} | {f"{stage}/step": step}, step=number)
    elif event["kind"] == "sample":
        columns = ["prompt", "wanted", "got"]
        table = wandb.Table(columns=columns, data=[[sample[name] for name in columns] for sample in event["samples"]])
        session.log({f"{stage}/samples": table, f"{stage}/step": step}, step=number)
    elif event["kind"] == "warning":
        session.alert(title=f"{run}: {stage}", text=event["text"])


def _send_alert(job: dict[str, str]) -> None:
    import wandb

    quiet = wandb.Settings(silent=True, console="off")
    with wandb.init(project=PROJECT, name=f"{job['name']}-notice", settings=quiet) as session:
        session.alert(title=f"{job['name']}: notice", text=job["text"])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _send_events(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    else:
        _send_alert(json.load(sys.stdin))
