"""The page of `tuneline ui`: on loopback, beside a gateway for finished runs."""

import contextlib
import shlex
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI
from starlette.types import ASGIApp

from tuneline.core.web_requests import is_loopback
from tuneline.ui.access import Access, new_token
from tuneline.ui.gateway_client import GatewayClient
from tuneline.ui.guarded_app import build_guarded_app
from tuneline.ui.models import Models
from tuneline.ui.own_gateway import serve_runs
from tuneline.ui.page import Pages
from tuneline.ui.run_engines import RunEngines
from tuneline.ui.run_sources import RemoteRuns, RunSources
from tuneline.ui.traffic_history import TrafficHistory
from tuneline.ui.watch_feed import open_feed


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
    app = build_guarded_app(
        Pages(
            lambda _: Models(gateway, runs[0], engines),
            lambda _, models: open_feed(models.watched, traffic if is_here else None, is_here=is_here),
            RunSources(remote_runs),
            lambda file: f"tuneline ratings {_to_word(file)}",
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


def _to_word(file: Path) -> str:
    """Return a file as a word of a command, relative to the current folder if it is in there."""
    folder = Path.cwd()
    return shlex.quote(str(file.relative_to(folder) if file.is_relative_to(folder) else file))
