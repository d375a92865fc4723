"""A small app whose functions do what the rules of Modal are about."""

import os
import subprocess
import sys
import time
from pathlib import Path

import modal

app = modal.App("rules")
volume = modal.Volume.from_name("rules", create_if_missing=True)
notes = modal.Dict.from_name("rules-notes", create_if_missing=True)
image = modal.Image.debian_slim().env({"FROM_IMAGE": "yes"})
DISK = Path("/disk")


@app.function(image=image)
def square(x: int) -> int:
    print(f"squaring {x}", os.environ["FROM_IMAGE"])
    return x * x


@app.function(retries=modal.Retries(max_retries=2, initial_delay=0.0))
def flaky(name: str) -> int:
    tries = notes.get(name, 0) + 1
    notes.put(name, tries)
    if tries < 3:
        raise ValueError(f"try {tries}")
    return tries


@app.function(timeout=1)
def slow() -> None:
    time.sleep(30)


@app.function(volumes={"/disk": volume}, single_use_containers=True)
def write(name: str, commit: bool, die: bool) -> None:
    (DISK / name).write_text("written")
    if commit:
        volume.commit()
    if die:
        os.kill(os.getpid(), 9)


@app.function(volumes={"/disk": volume})
def read(name: str) -> bool:
    volume.reload()
    return (DISK / name).exists()


@app.function(volumes={"/disk": volume})
def reload_open() -> str:
    (DISK / "open").write_text("x")
    with (DISK / "open").open():
        try:
            volume.reload()
        except RuntimeError as error:
            return str(error)
    return "reloaded"


@app.function(retries=0)
def count(name: str, seconds: float) -> int:
    tries = notes.get(name, 0) + 1
    notes.put(name, tries)
    if tries == 1:
        time.sleep(seconds)
    return tries


@app.function()
def two_processes() -> str:
    code = "import os; print(os.environ['RANK'], os.environ['WORLD_SIZE'], flush=True)"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    done = subprocess.run([*command, sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ",".join(sorted(done.stdout.split("\n"))).strip(",")


@app.local_entrypoint()
def main(what: str) -> None:
    match what:
        case "square":
            print("squares", sorted(square.map(range(5))), square.remote(7))
            call = square.spawn(9)
            print("spawned", modal.FunctionCall.from_id(call.object_id).get(timeout=60))
        case "flaky":
            print("tries", flaky.remote("flaky"))
        case "slow":
            slow.remote()
        case "volume":
            write.remote("kept", commit=False, die=False)
            for name, commit in (("lost", False), ("saved", True)):
                try:
                    write.remote(name, commit=commit, die=True)
                except Exception as error:
                    print(type(error).__name__)
                print(name, read.remote(name))
            print(reload_open.remote())
        case "preempt":
            print("tries", count.remote("preempted", 20))
        case "kill":
            print("tries", count.remote("killed", 20))
        case "torchrun":
            print("ranks", two_processes.remote())
        case "dict":
            print("first", notes.put("key", 1, skip_if_exists=True), "second", notes.put("key", 2, skip_if_exists=True))
            print("value", notes.get("key"), notes.pop("key"), notes.get("key", "none"))
