"""llama.cpp's own server for one GGUF: started, awaited, stopped."""

import contextlib
import ctypes
import errno
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tuneline.core.errors import BadRequest, NotFound, StageFailed
from tuneline.engines.llama_cpp.build import installed

STARTS_WITHIN_S = 120
STOPS_WITHIN_S = 10
LAST_LINES = 6
ONE_THREAD_BYTES = 50_000_000
"""A smaller model is served by one thread: threads meet at every matrix, and where a core is busy with something else
each meeting waits for the scheduler (0.2 answers a second instead of 30, measured with the tiny base)."""
PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when its parent dies."""


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    base_url: str
    """Of the OpenAI API, with `/v1`."""
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def serving(
    gguf: Path,
    *,
    alias: str,
    log: Path,
    context: int,
    threads: int,
    slots: int = 1,
    host: str = "127.0.0.1",
    port: int | None = None,
    api_key: str | None = None,
) -> Iterator[Server]:
    """A llama-server for `gguf`, its chat template and tool parser its own, until the block ends.

    `context` is in tokens for each of `slots` requests at a time; `port` None takes a free one; what the server
    prints goes to `log`.

    Raises:
        NotFound: no such file, or llama.cpp is not built. BadRequest: the port is taken. StageFailed: it did not start.
    """
    if not gguf.exists():
        raise NotFound(f"{gguf}: no such file; run `tuneline convert RECIPE` first")
    if port is None:
        port = free_port(host)
    else:
        _refuse_unless_free(host, port)
    if gguf.stat().st_size < ONE_THREAD_BYTES:
        threads = 1
    command = [str(installed().server), "--model", str(gguf), "--alias", alias, "--host", host, "--port", str(port)]
    command += ["--ctx-size", str(context * slots), "--parallel", str(slots), "--threads", str(threads)]
    command += ["--jinja", "--metrics", "--no-webui"]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(api_key),
            preexec_fn=dying_with(os.getpid()),
        )
    try:
        await_health(process, f"http://{host}:{port}", log, time.monotonic() + STARTS_WITHIN_S)
        yield Server(f"http://{host}:{port}/v1", process)
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then end it."""
    process.terminate()
    try:
        process.wait(STOPS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def await_health(process: subprocess.Popen[bytes], url: str, log: Path, deadline: float) -> None:
    """Wait until `/health` says 200; `deadline` as of `time.monotonic()`.

    Raises:
        StageFailed: it ended, or did not answer in time; with the end of its log.
    """
    while process.poll() is None and time.monotonic() < deadline:
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(f"{url}/health", timeout=2) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.05)
    state = "did not answer in time" if process.poll() is None else f"ended with {process.returncode}"
    last = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
    raise StageFailed(f"the server {state}; the end of {log}:\n{last}")


def free_port(host: str) -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _refuse_unless_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise BadRequest(f"port {port} on {host} {why}; choose another with --port") from None


def _environment(api_key: str | None) -> dict[str, str]:
    """The caller's, without what llama-server would take as options; the key goes here because argv is seen by all."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_ARG_", "LLAMA_API_KEY"))}
    return kept | ({"LLAMA_API_KEY": api_key} if api_key else {})


def dying_with(parent: int) -> Callable[[], None]:
    """What a child calls first so that it does not outlive a killed parent (more exactly: the thread that starts it).

    Linux only, elsewhere the `finally` alone stops it.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # found here: between fork and exec as little as possible is done

    def arrange() -> None:
        if prctl:
            prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before we asked
                os._exit(1)

    return arrange
