"""The local page: talk, compare, watch, runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuneline.cli.consoles import console

if TYPE_CHECKING:
    from tuneline.ui.run_sources import RemoteRuns

app = typer.Typer()
PANEL: Any = {"rich_help_panel": "Serving"}
GATEWAY = "http://127.0.0.1:8080"
"""Where `tuneline gateway` answers if nothing else is said."""
GRACE_S = 3


@app.command(**PANEL)
def ui(
    port: Annotated[int, typer.Option(help="Port to listen on, at 127.0.0.1.")] = 8090,
    gateway: Annotated[
        str, typer.Option(help="Address of the gateway; its key is TUNELINE_API_KEY. `none` shows runs alone.")
    ] = GATEWAY,
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            help="Settings of that gateway, to show its rollouts. Default: configs/gateway.yaml.",
            show_default=False,
        ),
    ] = None,
    on_modal: Annotated[bool, typer.Option("--modal", help="Show the runs on Modal too.")] = False,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Open a local page: talk to models, compare two, watch the gateway, look at runs."""
    import importlib.util

    from tuneline.core.errors import BadRequest
    from tuneline.engines.server import refuse_port_in_use

    if not importlib.util.find_spec("nicegui"):
        raise BadRequest("`tuneline ui` needs the extra `ui`: `pip install 'tuneline[ui]'`, or nicegui")
    refuse_port_in_use("127.0.0.1", port)
    url = None if gateway == "none" else _check_url(gateway)
    _serve(port, url, settings, on_modal, open_browser)


def _check_url(url: str) -> str:
    from tuneline.core.errors import BadRequest
    from tuneline.core.web_requests import origin

    scheme, host, _ = origin(url)
    if scheme not in ("http", "https") or not host:
        raise BadRequest(f"--gateway {url}: an address as http://127.0.0.1:8080, or none")
    return url.rstrip("/").removesuffix("/v1")


def _read_remote_runs() -> "RemoteRuns":
    from tuneline.ui.run_sources import RemoteRuns
    from tuneline.volumes.remote import list_modal_runs, read_events

    return RemoteRuns(list_modal_runs, read_events)


def _serve(port: int, gateway: str | None, settings: Path | None, on_modal: bool, open_browser: bool) -> None:
    import webbrowser

    import uvicorn

    from tuneline.configs.gateway import FILE
    from tuneline.core.machine import get_user_name
    from tuneline.engines.own_key import own_key
    from tuneline.ui.server import build_local_page
    from tuneline.ui.traffic_history import TrafficHistory

    traffic = TrafficHistory(settings or FILE, get_user_name())
    key = own_key(gateway) if gateway else None
    page = build_local_page(port, gateway, key or "", traffic, _read_remote_runs() if on_modal else None)
    console.print(f"the page is at {page.url} for you alone; Ctrl-C stops it", soft_wrap=True)
    if open_browser:
        webbrowser.open(page.url)
    uvicorn.run(
        page.app,
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
