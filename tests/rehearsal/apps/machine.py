"""Functions about what a container is: its network, files, memory, processes, and how it ends."""

import contextlib
import importlib
import os
import socket
import time
from pathlib import Path

import modal

app = modal.App("machine")
queue = modal.Queue.from_name("machine-queue", create_if_missing=True)
notes = modal.Dict.from_name("machine-notes", create_if_missing=True)


@app.function()
def listen(port: int) -> str:
    """Two of these at once listen on the same port of loopback."""
    with socket.create_server(("127.0.0.1", port)):
        queue.put("listening", partition="ports")
        while queue.len(partition="ports") < 2:
            time.sleep(0.05)
        return os.environ["MODAL_TASK_ID"]


@app.function()
def look(outside: int, file: str) -> dict[str, object]:
    reached = True
    try:
        socket.create_connection(("127.0.0.1", outside), 1).close()
    except OSError:
        reached = False
    written = True
    try:
        Path(file).write_text("x", encoding="utf-8")
    except OSError:
        written = False
    imported = True
    try:
        importlib.import_module("tuneline.core.errors")
    except ModuleNotFoundError:
        imported = False
    Path("/tmp/mine").write_text("x", encoding="utf-8")
    return {"reached": reached, "written": written, "imported": imported, "processes": len(_processes())}


def _processes() -> list[str]:
    return [entry.name for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


@app.function(memory=(64, 300), retries=0)
def eat() -> None:
    kept = []
    while True:
        kept.append(b"x" * 10_000_000)
        time.sleep(0.01)


@app.function()
def wait_for(name: str) -> str:
    notes[name] = "began"
    try:
        time.sleep(60)
    except BaseException as error:
        notes[name] = type(error).__name__
        raise
    return "slept"


@app.function()
def leave(code: int) -> None:
    os._exit(code)


@app.local_entrypoint()
def main(what: str, outside: int = 0, file: str = "") -> None:
    match what:
        case "ports":
            print("containers", len(set(listen.map([8000, 8000]))))
        case "look":
            print(look.remote(outside, file))
        case "eat":
            eat.remote()
        case "leave":
            leave.remote(7)
        case "cancel":
            for terminate in (False, True):
                name = f"cancel-{terminate}"
                call = wait_for.spawn(name)
                while notes.get(name) != "began":
                    time.sleep(0.05)
                modal.FunctionCall.from_id(call.object_id).cancel(terminate_containers=terminate)
                with contextlib.suppress(modal.exception.RemoteError):
                    call.get()
                end = time.monotonic() + 20
                while notes[name] == "began" and time.monotonic() < end:
                    time.sleep(0.05)
                print("cancelled", name, notes[name])
        case "queue":
            queue.hydrate()  # a name is made when it is first needed
            with modal.Queue.ephemeral() as mine:
                mine.put_many([1, 2, 3])
                print("queue", mine.get(), list(mine.iterate()), mine.len(), mine.get_many(5), mine.get(block=False))
        case "hold":
            call = wait_for.spawn("held")
            print("spawned", call.object_id)
