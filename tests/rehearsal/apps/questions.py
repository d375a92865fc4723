"""A small app that asks Modal what no documentation says for certain, and what decides most."""

import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

import modal

app = modal.App("questions")
volume = modal.Volume.from_name("questions", create_if_missing=True)
notes = modal.Dict.from_name("questions-notes", create_if_missing=True)
DISK = Path("/disk")
WRITTEN = 256 * 2**20
LONGEST_S = 120


def read_free_bytes() -> int:
    disk = os.statvfs(DISK)
    return disk.f_bavail * disk.f_frsize


@app.function(volumes={"/disk": volume})
def fill() -> tuple[int, int]:
    """Free bytes before and after so many were written and committed."""
    before, file = read_free_bytes(), DISK / "filling"
    file.write_bytes(os.urandom(WRITTEN))
    volume.commit()
    after = read_free_bytes()
    file.unlink()
    return before, after


@app.function()
def linger(key: str) -> None:
    """Note again and again how long ago the container was told to end."""
    notes.put(key, 0.0)
    try:
        time.sleep(LONGEST_S)
    except BaseException:
        told = time.monotonic()
        while (seconds := time.monotonic() - told) < LONGEST_S:
            notes.put(key, seconds)
            time.sleep(0.5)
        raise


@app.function()
def describe() -> str:
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
    compiler = subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{system}; Python {platform.python_version()}; gcc {compiler}; git {shutil.which('git')}"


def ask_grace_period() -> float:
    """Cancel a call with its container, and return the last moment at which it noted that it still ran."""
    key = str(time.time())
    call = linger.spawn(key)
    while notes.get(key) is None:
        time.sleep(0.5)
    call.cancel(terminate_containers=True)
    last, changed = -1.0, time.monotonic()
    while time.monotonic() - changed < 15:
        if (seconds := notes.get(key)) != last:
            last, changed = seconds, time.monotonic()
        time.sleep(0.5)
    return last


@app.local_entrypoint()
def main(what: str) -> None:
    match what:
        case "free":
            print("free:", *fill.remote())
        case "grace":
            print("grace:", ask_grace_period())
        case "system":
            print("system:", describe.remote())
