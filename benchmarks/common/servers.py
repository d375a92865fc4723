"""Servers of a benchmark: processes on loopback, their CPU time, and the gateway as one of them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.common.rounds import ROOT

FOLDERS = ("POLICY", "LOGS", "RUNS", "MODELS")


@contextmanager
def serving(
    command: Sequence[str], folder: Path, port: int, environment: Mapping[str, str] | None = None
) -> Iterator[psutil.Process]:
    """Run a server until the block ends; yields its process when it listens. Its output is in `folder`."""
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | {f"TUNELINE_{n}": str(folder / n.lower()) for n in FOLDERS}
    with (folder / f"{port}.log").open("w") as log:
        server = subprocess.Popen(command, cwd=ROOT, env=variables | dict(environment or {}), stdout=log, stderr=log)
    try:
        wait_until_listening(server, port, Path(log.name))
        yield psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait(40)


def gateway_command(settings: Path, port: int) -> list[str]:
    """Return the command of a gateway without keys."""
    return [sys.executable, "-m", "tuneline", "gateway", str(settings), "--port", str(port), "--no-keys"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_of(process: psutil.Process) -> float:
    """Return the CPU seconds of a process and of its children so far."""
    times = [process.cpu_times(), *(child.cpu_times() for child in process.children(recursive=True))]
    return float(sum(spent.user + spent.system for spent in times))


def memory_of(process: psutil.Process) -> float:
    """Return the resident MiB of a process."""
    return float(process.memory_info().rss / (1 << 20))


def wait_until_listening(
    server: "subprocess.Popen[bytes]", port: int, log: Path | None = None, seconds: float = 180
) -> None:
    """Wait until a server of this machine takes connections; ends the benchmark, with its `log`, if it does not."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                output = log.read_text("utf-8") if log else ""
                raise SystemExit(f"{server.args!r} does not answer:\n{output}") from None
            time.sleep(0.02)
