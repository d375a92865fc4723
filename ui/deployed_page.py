"""The page beside a deployed gateway: whoever has one of its keys is let in, and talks with that key."""

import asyncio
import contextlib
import logging
import shlex
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.types import ASGIApp

from tuneline.configs.gateway import FILE
from tuneline.core import paths
from tuneline.endpoints.gateway.key_index import KeyIndex
from tuneline.endpoints.traffic.rollouts import Mover
from tuneline.ui.access import Access, CheckKey, Session, Visitor
from tuneline.ui.gateway_client import GatewayClient
from tuneline.ui.guarded_app import build_guarded_app
from tuneline.ui.live_ballot import live_ballots
from tuneline.ui.log_window import LogWindow
from tuneline.ui.models import Models
from tuneline.ui.page import Pages
from tuneline.ui.run_sources import RemoteRuns, RunSources
from tuneline.ui.traffic_history import TrafficHistory
from tuneline.ui.watch_feed import WatchFeed

log = logging.getLogger(__name__)

REFRESH_EVERY_S = 5.0


def build_deployed_page(
    url: str, gateway_url: str, move: Mover, remote_runs: RemoteRuns, refresh: Callable[[], None]
) -> ASGIApp:
    """Return the page that is served at `url`. Keys, traffic and log are those of this machine's folders.

    `refresh` brings the folders up to date and keeps what the page has written; it is called every few seconds, in a
    thread. `move` writes a move of traffic.
    """

    def open_feed(session: Session, models: Models) -> WatchFeed:
        traffic = TrafficHistory(FILE, session.visitor.owner, move)
        return WatchFeed(models.watched, LogWindow(paths.logs()), traffic)

    return build_guarded_app(
        Pages(
            lambda session: Models(GatewayClient(gateway_url, session.key, follows_redirects=True), None, None),
            open_feed,
            RunSources(remote_runs),
            _describe_votes,
        ),
        lambda inner: Access(inner, hosts=frozenset({urlsplit(url).netloc}), check_key=find_visitors(), secure=True),
        FastAPI(
            lifespan=lambda _: _refreshing(refresh, REFRESH_EVERY_S), openapi_url=None, docs_url=None, redoc_url=None
        ),
    )


def find_visitors() -> CheckKey:
    """Return what finds the visitor of a key, as the gateway finds keys."""
    keys = KeyIndex()

    def find(secret: str) -> Visitor | None:
        key = keys.find(secret)
        return Visitor(key.owner, key.operator) if key else None

    return find


@contextlib.asynccontextmanager
async def _refreshing(refresh: Callable[[], None], seconds: float) -> AsyncIterator[None]:
    """Call `refresh` every so many seconds until the block ends, and then once more."""

    async def look() -> None:
        try:
            await asyncio.to_thread(refresh)
        except Exception as error:  # of the network, or a bug: what was read last counts until the next look
            log.error("the page's folders cannot be refreshed: %s", error, exc_info=not hasattr(error, "exit_code"))

    async def look_on() -> None:
        while True:
            await asyncio.sleep(seconds)
            await look()

    looking = asyncio.create_task(look_on())
    try:
        yield
    finally:
        looking.cancel()
        await look()


def _describe_votes(file: Path) -> str:
    folder, here = live_ballots().name, Path(".ui")
    fetch = f"mkdir -p {here} && modal volume get --force tuneline-ui {folder} {here}"
    return f"{fetch} && tuneline ratings {shlex.quote(str(here / folder / file.name))}"
