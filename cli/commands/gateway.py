"""The gateway: one address for promoted models, baselines and fallbacks."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tuneline.cli.consoles import console

app = typer.Typer()
PANEL: Any = {"rich_help_panel": "Going live"}
GRACE_S = 30
"""Time that streams have to end after SIGTERM."""


@app.command(**PANEL)
def gateway(
    settings: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Settings. Default: configs/gateway.yaml.", show_default=False)
    ] = None,
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to bind to; any other than loopback requires keys.")] = "127.0.0.1",
    open_to_all: Annotated[
        bool, typer.Option("--no-keys", help="Accept requests without a key; on loopback only.")
    ] = False,
    handlers: Annotated[
        list[str] | None,
        typer.Option(
            help="Runs the tool calls of model `assistant`: a Python module, OpenAPI, mcp:COMMAND. May be repeated."
        ),
    ] = None,
    assistant_model: Annotated[str | None, typer.Option(help="Model of this gateway that `assistant` uses.")] = None,
    run: Annotated[str | None, typer.Option(help="Run whose tools that model was trained on.")] = None,
    catalogue: Annotated[Path | None, typer.Option(help="Tool catalogue that this model is shown.")] = None,
    knowledge: Annotated[Path | None, typer.Option(help="Folder of documents that answers are taken from.")] = None,
    picks_only: Annotated[
        bool,
        typer.Option("--picks-only", help="That model was only trained to choose tools: their results are the answer."),
    ] = False,
    folder: Annotated[Path, typer.Option(help="Folder of the assistant's conversations.")] = Path(".assistant"),
) -> None:
    """Serve all promoted models and those of gateway.yaml at http://HOST:PORT/v1."""
    import uvicorn

    from tuneline.configs.gateway import FILE
    from tuneline.core.errors import BadRequest
    from tuneline.core.web_requests import LOOPBACK_HOSTS
    from tuneline.endpoints.engine_pool import EnginePool
    from tuneline.endpoints.gateway.app import Gateway, build_app
    from tuneline.endpoints.gateway.assistant_setup import make_assistant
    from tuneline.endpoints.gateway.settings_file import SettingsFile
    from tuneline.engines.server import refuse_port_in_use
    from tuneline.engines.vllm.vllm_server import find_vllm

    if open_to_all and host not in LOOPBACK_HOSTS:
        raise BadRequest(f"--no-keys --host {host}: others could reach it; create a key with `tuneline keys add OWNER`")
    file = SettingsFile(settings or FILE)
    refuse_port_in_use(host, port)
    engines = EnginePool(("gguf", "adapter", "merged") if find_vllm() else ("gguf",))
    options: dict[str, Any] = {"handlers": handlers, "model": assistant_model, "run": run, "catalogue": catalogue}
    options |= {"knowledge": knowledge, "picks_only": picks_only}
    assistant = make_assistant(file.current.assistant, options, f"http://{host}:{port}/v1", folder)
    answering = Gateway(file, engines, with_keys=not open_to_all, update_engines=engines.update, assistant=assistant)
    keys = "without a key" if open_to_all else "for the keys of `tuneline keys`"
    console.print(f"the gateway answers at http://{host}:{port}/v1 {keys}; Ctrl-C stops it", soft_wrap=True)
    try:
        uvicorn.run(
            build_app(answering),
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
        )
    finally:
        engines.stop()
