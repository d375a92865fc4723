"""What a container of engines answers: the gateway's requests, each for a version by its engine's name.

The gateway says which version serves, so that containers which start a new one at different times answer nobody by the
one before it. An ASGI app.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import aiohttp
import orjson
from starlette.applications import Starlette

from tuneline.configs.gateway import Limits
from tuneline.endpoints.engine_answers import answer_or_explain, pass_on
from tuneline.endpoints.engine_pool import EnginePool
from tuneline.endpoints.gateway.api_errors import ApiError
from tuneline.endpoints.gateway.failures import BOOTING
from tuneline.endpoints.gateway.http_messages import (
    Receive,
    Scope,
    Send,
    Sender,
    read_body,
    read_headers,
    unless_left,
)
from tuneline.endpoints.gateway.lifespan import run_with_lifespan
from tuneline.endpoints.gateway.loops import end_process_with
from tuneline.endpoints.gateway.tracing import TRACE_HEADERS

log = logging.getLogger(__name__)

UPDATE_EVERY_S = 2.0
PATHS = ("chat/completions", "completions")
LIMITS = Limits(body_mib=256)
"""The gateway has checked its callers' bodies; it adds a template."""


class EngineApi:
    """The engines of this container, by version."""

    def __init__(self, engines: EnginePool, refresh: Callable[[], None] = lambda: None) -> None:
        """`refresh` brings the policy folder and the runs up to date before each look at the promotions."""
        self._engines, self._refresh = engines, refresh
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            return
        await answer_or_explain(send, partial(self._route, scope, receive), "the engine")

    async def _route(self, scope: Scope, receive: Receive, sender: Sender) -> None:
        path, method = scope["path"], scope["method"]
        if (method, path) == ("GET", "/health"):
            await sender.whole(200, orjson.dumps({"versions": self._engines.versions()}))
        elif method == "POST" and path.removeprefix("/v1/") in PATHS:
            headers = read_headers(scope)
            body = _read_object(await read_body(receive, headers, LIMITS))
            traced = {name: headers[name] for name in TRACE_HEADERS if name in headers}
            await unless_left(self._answer(path.removeprefix("/v1/"), body, traced, sender), receive)
        else:
            raise ApiError(404, f"{path[:100]}: not answered here")

    async def _answer(self, path: str, body: dict[str, Any], traced: dict[str, str], sender: Sender) -> None:
        """Pass a request to the engine of the version that it names, and the answer back."""
        with self._engines.use_version(str(body.get("model"))) as address:
            if address is None:
                raise ApiError(503, f"{body.get('model')}: does not answer here", code=BOOTING, retry_after_s=1)
            assert self._session
            content = orjson.dumps(address.complete(path, body))
            headers = {"content-type": "application/json", **traced}
            async with self._session.post(f"{address.base_url}/{path}", data=content, headers=headers) as response:
                await pass_on(response, sender)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the promotions until the block ends; then stop the engines."""
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(None), connector=aiohttp.TCPConnector(limit=0)
        ) as session:
            self._session = session
            task = asyncio.create_task(self._follow())
            task.add_done_callback(end_process_with)
            try:
                yield
            finally:
                task.remove_done_callback(end_process_with)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await asyncio.to_thread(self._engines.stop)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(UPDATE_EVERY_S)
            for step in (self._refresh, self._engines.update):
                try:
                    await asyncio.to_thread(step)
                except Exception as error:  # of Modal, of one promotion, or a bug: the next look happens all the same
                    is_ours = hasattr(error, "exit_code")
                    log.error("what is promoted cannot be served: %s", error, exc_info=not is_ours)


def _read_object(content: bytes) -> dict[str, Any]:
    """Return a request's body. Raises ApiError if it is no JSON object: 400, in OpenAI's shape."""
    try:
        body = orjson.loads(content)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body: must be a JSON object")
    return body


def build_engine_api(api: EngineApi) -> Starlette:
    """Return the ASGI app, which follows the promotions for its lifespan."""
    return run_with_lifespan(api)
