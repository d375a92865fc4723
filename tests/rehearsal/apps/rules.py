"""A small app whose functions do what the rules of Modal are about."""

import os
import subprocess
import sys
import threading
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


@app.function(volumes={"/disk": volume})
def reload_mapped() -> str:
    """A process that this one started has mapped a file, and closed it."""
    (DISK / "mapped").write_text("x" * 5000)
    code = "import mmap, sys, time; f = open(sys.argv[1]); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close()"
    words = [sys.executable, "-c", f"{code}; print('mapped', flush=True); time.sleep(60)", str(DISK / "mapped")]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert child.stdout and child.stdout.readline() == "mapped\n"
    try:
        volume.reload()
    except RuntimeError as error:
        return str(error)
    finally:
        child.kill()
        child.wait()
    return "reloaded"


@app.function(volumes={"/disk": volume})
def look_while_reloading() -> tuple[bool, bool]:
    """Whether a file was away meanwhile, and whether it is there in the end."""
    looks, done = [], threading.Event()

    def look() -> None:
        while not done.is_set():
            looks.append((DISK / "kept").exists())
            time.sleep(0.005)

    thread = threading.Thread(target=look)
    thread.start()
    volume.reload()
    done.set()
    thread.join()
    return False in looks, (DISK / "kept").exists()


@app.function(retries=0)
def count(name: str, seconds: float) -> int:
    tries = notes.get(name, 0) + 1
    notes.put(name, tries)
    if tries == 1:
        time.sleep(seconds)
    return tries


@app.function()
def two_processes() -> str:
    # One write a rank: print writes word by word where Python is unbuffered, and ranks share the pipe.
    code = "import os; os.write(1, f\"{os.environ['RANK']} {os.environ['WORLD_SIZE']}\\n\".encode())"
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
            print("mapped:", reload_mapped.remote())
            print("away, back:", look_while_reloading.remote())
        case "preempt":
            print("tries", count.remote("preempted", 20))
        case "kill":
            print("tries", count.remote("killed", 20))
        case "torchrun":
            print("ranks", two_processes.remote())
        case "dict":
            print("first", notes.put("key", 1, skip_if_exists=True), "second", notes.put("key", 2, skip_if_exists=True))
            print("value", notes.get("key"), notes.pop("key"), notes.get("key", "none"))
