"""llama-server with a run's model, for as long as a command needs it."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.cli.run_folders import open_stage
from tuneline.core.environment import read_variable

if TYPE_CHECKING:
    from tuneline.engines.server import Server


def refuse_open_host(host: str) -> None:
    """Raise BadRequest if others could reach `host` and no key is set that they must send."""
    from tuneline.core.errors import BadRequest
    from tuneline.core.web_requests import LOOPBACK_HOSTS

    if host not in LOOPBACK_HOSTS and not read_variable("TUNELINE_API_KEY"):
        raise BadRequest(
            f"--host {host}: others could reach it; set TUNELINE_API_KEY to the key that clients must send"
        )


def find_gguf(folder: Path, kind: str | None) -> Path:
    """Return a run's GGUF of type `kind`, the recipe's `serve.type` if None; its bytes are those that were made.

    Raises:
        BadRequest: the run has no such file. StageFailed: the file is not the one that was made.
        StaleArtifact: the run was trained again since.
    """
    from tuneline.configs.recipe import recipe_of
    from tuneline.core.artifacts import verify_files
    from tuneline.core.errors import BadRequest

    converted, kind = open_stage(folder, "convert"), kind or recipe_of(folder).serve.type
    files = converted.metrics["files"]
    if f"tuned-{kind}" not in files:
        kinds = ", ".join(name.removeprefix("tuned-") for name in files if name.startswith("tuned-"))
        raise BadRequest(f"--type {kind}: not in this run; it has {kinds}")
    verify_files(converted, f"tuned-{kind}.gguf")
    return folder / "convert" / f"tuned-{kind}.gguf"


@contextlib.contextmanager
def start_server(folder: Path, kind: str | None = None) -> "Iterator[Server]":
    """Start llama-server on loopback with a run's GGUF file until the context is left. Raises as `find_gguf` does."""
    from tuneline.configs.recipe import recipe_of
    from tuneline.engines.llama_cpp.llama_server import start_llama_server

    recipe = recipe_of(folder)
    with start_llama_server(
        find_gguf(folder, kind),
        alias=folder.name,
        log=folder / "logs" / "serve.log",
        context=recipe.serve.context,
        threads=recipe.compute.threads or len(os.sched_getaffinity(0)),
        api_key=read_variable("TUNELINE_API_KEY"),
    ) as server:
        yield server


def serve_run(folder: Path, kind: str | None, port: int, host: str, announce: Callable[[str], None]) -> None:
    """Serve a run at `port` until Ctrl-C; `announce` is called with the address when it answers.

    Raises:
        BadRequest: others could reach `host` and no TUNELINE_API_KEY is set, the port is taken, or the run has no such
            file.
        StageFailed: llama-server ended by itself.
    """
    import uvicorn

    from tuneline.core.errors import StageFailed
    from tuneline.endpoints.engine_address import EngineAddress
    from tuneline.endpoints.forbidden_calls import llama_cpp_fields
    from tuneline.endpoints.run_server import RunServer, build_run_server
    from tuneline.endpoints.tool_selection import load_tool_selector
    from tuneline.engines.control_tokens import read_gguf_tokens
    from tuneline.engines.server import refuse_port_in_use

    refuse_open_host(host)
    refuse_port_in_use(host, port)
    with start_server(folder, kind) as server:
        address = EngineAddress(
            server.base_url,
            {},
            load_tool_selector(folder),
            control_tokens=read_gguf_tokens(find_gguf(folder, kind)),
            known_choices=(),
            without_calls=llama_cpp_fields(),
        )
        options: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
        front = uvicorn.Server(uvicorn.Config(build_run_server(RunServer(address)), host=host, port=port, **options))

        def stop_with_engine() -> None:
            server.process.wait()
            front.should_exit = True

        threading.Thread(target=stop_with_engine, daemon=True).start()
        announce(f"http://{host}:{port}/v1")
        front.run()
        if (code := server.process.poll()) is not None:
            raise StageFailed(f"llama-server ended with {code}; see {folder / 'logs' / 'serve.log'}")
