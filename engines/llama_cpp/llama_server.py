"""llama.cpp's own server, started for one GGUF file."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tuneline.configs.hardware import hardware
from tuneline.core.errors import NotFound
from tuneline.engines.llama_cpp.build import find_llama_cpp
from tuneline.engines.llama_cpp.threads import limit_threads
from tuneline.engines.server import Server, free_port, refuse_port_in_use, start_process, stop, wait_until_ready

START_TIMEOUT_S = 120
"""Seconds to start in, besides those to read the file."""
STOP_GRACE_S = 10


@contextlib.contextmanager
def start_llama_server(
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
    maps_file: bool = True,
) -> Iterator[Server]:
    """Run a llama-server for `gguf` until the block ends; it uses the file's own chat template and tool parser.

    Args:
        alias: the model's name in requests.
        log: the file that receives what the server prints.
        context: tokens for each of the `slots` requests that it answers at a time.
        port: None takes a free one.
        maps_file: whether the file is mapped into memory, and so stays open; otherwise it is read, and closed.

    Raises:
        NotFound: no such file, or llama.cpp is not built.
        BadRequest: the port is taken.
        StageFailed: the server did not start.
    """
    if not gguf.exists():
        raise NotFound(f"{gguf}: no such file; run `tuneline convert RECIPE` first")
    if port is None:
        port = free_port(host)
    else:
        refuse_port_in_use(host, port)
    command = [
        str(find_llama_cpp().server),
        "--model",
        str(gguf),
        "--alias",
        alias,
        "--host",
        host,
        "--port",
        str(port),
    ]
    command += ["--ctx-size", str(context * slots), "--parallel", str(slots)]
    command += ["--threads", str(limit_threads(gguf, threads))]
    # As shipped it allows every web page to read its answers, with credentials (its README, `--cors-origins`).
    command += ["--cors-origins", "localhost", "--no-cors-credentials"]
    command += ["--jinja", "--metrics", "--no-webui", *([] if maps_file else ["--load-mode", "none"])]
    process = start_process(command, log, _environment(api_key))
    try:
        timeout_s = START_TIMEOUT_S + gguf.stat().st_size / (1e9 * hardware().speed.load_gb_per_second[0])
        wait_until_ready(process, f"http://{host}:{port}", log, timeout_s)
        yield Server(f"http://{host}:{port}/v1", process)
    finally:
        stop(process, STOP_GRACE_S)


def _environment(api_key: str | None) -> dict[str, str]:
    """Return this process's environment without llama-server's own variables, and with the key.

    The key is passed here because other users can read a process's arguments.
    """
    inherited = {n: value for n, value in os.environ.items() if not n.startswith(("LLAMA_ARG_", "LLAMA_API_KEY"))}
    return inherited | ({"LLAMA_API_KEY": api_key} if api_key else {})
