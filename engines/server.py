"""A server process on this machine that speaks OpenAI's API: started, awaited, stopped; and free ports for it.

`engines.llama_cpp.llama_server.start_llama_server` and `engines.vllm.vllm_server.start_vllm` start one.
"""

import contextlib
import errno
import functools
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneline.core.child_processes import bind_to_parent, log_tail
from tuneline.core.errors import BadRequest, StageFailed

LOG_LINES_SHOWN = 6
POLL_EVERY_S = 0.05
PROBE_TIMEOUT_S = 2


@dataclass(frozen=True)
class Server:
    """A server that was ready when this was made."""

    base_url: str
    """Of the OpenAI API, with `/v1`."""
    process: subprocess.Popen[bytes]


def start_process(
    command: Sequence[str], log: Path, environment: Mapping[str, str], *, own_session: bool = False
) -> subprocess.Popen[bytes]:
    """Start a server whose output goes to `log`; it is sent SIGTERM when the thread that started it ends.

    With `own_session` it leads a process group, which `stop` can kill as a whole.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=functools.partial(bind_to_parent, os.getpid(), signal.SIGTERM, ignore_interrupt=False),
            start_new_session=own_session,
        )


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path, timeout_s: float) -> None:
    """Return as soon as `GET {url}/health` answers 200.

    Raises:
        StageFailed: the process ended, or was not ready within `timeout_s`; with the last lines of `log`.
    """
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(f"{url}/health", timeout=PROBE_TIMEOUT_S) as response,
        ):
            if response.status == 200:
                return
        time.sleep(POLL_EVERY_S)
    state = "did not answer in time" if process.poll() is None else f"ended with {process.returncode}"
    raise StageFailed(f"the server {state}; the end of {log}:\n{log_tail(log, LOG_LINES_SHOWN)}")


def stop(process: subprocess.Popen[bytes], grace_s: float, *, kill_group: bool = False) -> None:
    """Send SIGTERM, wait up to `grace_s`, then send SIGKILL.

    `kill_group` sends SIGKILL in any case, to every process of the group that `process` leads.
    """
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace_s)
    if kill_group:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()  # does nothing if it has ended
    process.wait()


def free_port(host: str) -> int:
    """Return a TCP port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def refuse_port_in_use(host: str, port: int) -> None:
    """Check that a server could listen on this port.

    Raises:
        BadRequest: the port is taken, or the user may not bind it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise BadRequest(f"port {port} on {host} {reason}; choose another with --port") from None
