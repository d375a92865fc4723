"""`tuneline rehearse`: a control plane for as long as a command runs, or until Ctrl-C."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from modal_proto import api_pb2 as pb

from tuneline.core.errors import BadRequest, NotFound
from tuneline.core.paths import ROOT
from tuneline.core.terminal import echo
from tuneline.rehearsal.access import claim_folder
from tuneline.rehearsal.session import ADDRESS, TOKEN, Rehearsal

TRIGGER = "trigger"


def run_rehearsed(command: list[str], folder: Path) -> int:
    """Run a command with Modal simulated here, and return its exit code.

    `trigger APP FUNCTION` calls a function as its schedule would. If a control plane is running with this folder
    (`tuneline rehearse`), that one is used.
    """
    refuse_missing_app(command)
    claim_folder(folder)
    if (file := folder / ADDRESS).exists() and _is_running(folder):
        record = json.loads(file.read_text())
        environment = record["environment"]
        trigger = command[0] == TRIGGER
        return _trigger(record["address"], environment[TOKEN], command) if trigger else _call(command, environment)
    with Rehearsal(folder) as rehearsal:
        if command[0] == TRIGGER:
            return _trigger(rehearsal.address, rehearsal.environment[TOKEN], command)
        code = _call(command, rehearsal.environment)
        if rehearsal.has_detached_calls():
            echo("the client has ended, a detached call continues; Ctrl-C ends it", error=True)
            _wait_while(rehearsal.has_detached_calls)
        echo(rehearsal.summary(), error=True)
        return code


def refuse_missing_app(command: list[str]) -> None:
    """Raise NotFound if a command names an app.py that is not in the current folder, where Modal looks for it."""
    for word in command:
        file = Path(word.partition("::")[0])
        if file.name == "app.py" and not file.exists():
            raise NotFound(
                f"{word}: no {file} in {Path.cwd()}; `modal run -m tuneline.app::VERB` works in every folder, or "
                f"`cd {ROOT}` first"
            )


def keep_running(folder: Path) -> None:
    """Keep a control plane running until Ctrl-C, and print how to reach it."""
    with Rehearsal(folder) as rehearsal:
        for name, value in rehearsal.environment.items():
            echo(f"export {name}={value}")
        for app in [app for app in rehearsal.plane.state.apps.values() if app.state == pb.APP_STATE_DEPLOYED]:
            for name, function in rehearsal.plane.describe_functions(app).items():
                for url in function["urls"].values():
                    echo(f"# {app.name} {name} {url}")
        echo(f"# `tuneline rehearse -- modal …` with --state {folder} talks to it by itself")
        _wait_while(lambda: True)


def _call(command: list[str], environment: dict[str, str]) -> int:
    try:
        process = subprocess.Popen(command, env=os.environ | environment)
    except FileNotFoundError:
        raise NotFound(f"{command[0]}: no such command; use `tuneline rehearse -- modal run …`") from None
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)  # the client asks whether to detach or to stop


def _trigger(address: str, token: str, command: list[str]) -> int:
    """Call a deployed function as its schedule would, print its log, and return 1 if it failed, else 0.

    Raises:
        BadRequest: `command` does not name an app and a function.
        NotFound: no such app or function is deployed.
    """
    if len(command) != 3:
        raise BadRequest("say `tuneline rehearse -- trigger APP FUNCTION`")
    try:
        url = f"{address}/rehearsal/trigger/{command[1]}/{command[2]}"
        request = urllib.request.Request(url, b"", {"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request) as response:
            result = json.load(response)
    except urllib.error.HTTPError as error:
        raise NotFound(error.read().decode()) from None
    sys.stdout.write(result["log"])
    if result["status"] != pb.GenericResult.GENERIC_STATUS_SUCCESS:
        echo(f"{command[2]} failed: {result['exception']}", error=True)
        return 1
    return 0


def _is_running(folder: Path) -> bool:
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def _wait_while(condition: Any) -> None:
    never = threading.Event()
    try:
        while condition():
            never.wait(0.5)
    except KeyboardInterrupt:
        echo("the rehearsal is over", error=True)
