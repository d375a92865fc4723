"""The page's server: NiceGUI's app behind `Access`, on loopback, beside a gateway for finished runs."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.types import ASGIApp

from tuneline.core.web_requests import is_loopback
from tuneline.ui.access import Access, new_token
from tuneline.ui.gateway_client import GatewayClient
from tuneline.ui.models import Models
from tuneline.ui.own_gateway import serve_runs
from tuneline.ui.page import Pages, declare_page
from tuneline.ui.run_engines import RunEngines
from tuneline.ui.run_sources import RemoteRuns, RunSources
from tuneline.ui.traffic_history import TrafficHistory
from tuneline.ui.watch_feed import open_feed

RECONNECT_S = 30.0
"""How long a page that lost its connection keeps its state here."""


@dataclass(frozen=True)
class LocalPage:
    """The ASGI app, and the address that opens it."""

    app: ASGIApp
    url: str


def build_local_page(
    port: int, gateway_url: str | None, key: str, traffic: TrafficHistory, remote_runs: RemoteRuns | None = None
) -> LocalPage:
    """Return the page for the user of this machine; `gateway_url` without `/v1` is their gateway, None if none."""
    gateway = GatewayClient(gateway_url, key) if gateway_url else None
    is_here = gateway_url is None or is_loopback(gateway_url)
    engines, runs = RunEngines(), list[GatewayClient]()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with serve_runs(engines) as client:
            runs.append(client)
            yield
        if gateway:
            await gateway.close()

    token, names = new_token(), ("127.0.0.1", "localhost", "[::1]")
    app = _build_app(
        Pages(
            lambda _: Models(gateway, runs[0], engines),
            lambda models: open_feed(models.watched, traffic if is_here else None, is_here=is_here),
            RunSources(remote_runs),
        ),
        lambda inner: Access(
            inner,
            hosts=frozenset(f"{name}:{port}" for name in names),
            token=token,
            key=key,
            cookie=f"tuneline-ui-{port}",  # cookies know no ports, and several pages may run
        ),
        FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None),
    )
    return LocalPage(app, f"http://127.0.0.1:{port}/?token={token}")


def _build_app(pages: Pages, guard: Callable[[ASGIApp], Access], app: FastAPI) -> ASGIApp:
    from nicegui import ui

    declare_page(pages, lambda: access)
    ui.run_with(
        app, dark=None, tailwind=False, reconnect_timeout=RECONNECT_S, show_welcome_message=False, language="en-US"
    )
    access = guard(app)
    return access
