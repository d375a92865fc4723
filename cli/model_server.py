"""llama-server with a run's model, for as long as a command needs it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tuneline.cli.run_folders import open_stage

if TYPE_CHECKING:
    from tuneline.engines.server import Server


@contextlib.contextmanager
def start_server(
    folder: Path, kind: str | None = None, port: int | None = None, host: str = "127.0.0.1"
) -> "Iterator[Server]":
    """Serve a run's GGUF file of type `kind` (the recipe's `serve.type` if None) until the context is left.

    Raises:
        BadRequest: others could reach `host` and no TUNELINE_API_KEY is set, or the run has no such file.
    """
    from tuneline.configs.recipe import recipe_of
    from tuneline.core.errors import BadRequest
    from tuneline.core.web_requests import LOOPBACK_HOSTS
    from tuneline.engines.llama_cpp.llama_server import start_llama_server

    key = os.environ.get("TUNELINE_API_KEY")
    if host not in LOOPBACK_HOSTS and not key:
        raise BadRequest(f"--host {host}: others could reach it; set TUNELINE_API_KEY to the key they shall send")
    recipe = recipe_of(folder)
    files, kind = open_stage(folder, "convert").metrics["files"], kind or recipe.serve.type
    if f"tuned-{kind}" not in files:
        kinds = ", ".join(name.removeprefix("tuned-") for name in files if name.startswith("tuned-"))
        raise BadRequest(f"--type {kind}: this run has {kinds}")
    with start_llama_server(
        folder / "convert" / f"tuned-{kind}.gguf",
        alias=folder.name,
        log=folder / "logs" / "serve.log",
        context=recipe.serve.context,
        threads=recipe.compute.threads or len(os.sched_getaffinity(0)),
        host=host,
        port=port,
        api_key=key,
    ) as server:
        yield server
