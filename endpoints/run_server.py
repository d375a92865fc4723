"""What `tuneline serve` answers with: a run's llama-server, given each request as the gateway gives it to an engine.

So a run is served with what it was judged with: the tools nearest to a request, forced calls, and no control token that
a caller wrote. Keys and everything but chat completions are llama-server's own. An ASGI app.
"""

import contextlib
from collections.abc import AsyncIterator
from functools import partial

import aiohttp
import orjson
from starlette.applications import Starlette

from tuneline.configs.gateway import Limits
from tuneline.core.user_files import parse_json
from tuneline.endpoints.engine_address import EngineAddress
from tuneline.endpoints.engine_answers import answer_or_explain, pass_on
from tuneline.endpoints.forced_tools import find_choice_mistake
from tuneline.endpoints.gateway.api_errors import ApiError
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

CHAT_PATHS = ("/v1/chat/completions", "/chat/completions")
LIMITS = Limits(body_mib=256)
PASSED_HEADERS = ("authorization", "x-api-key", "origin", "accept", "content-type")
"""Of a caller's; the others are of its connection."""


class RunServer:
    """One engine's requests and answers."""

    def __init__(self, address: EngineAddress) -> None:
        self._address = address
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            return
        await answer_or_explain(send, partial(self._answer, scope, receive), "the model's server")

    async def _answer(self, scope: Scope, receive: Receive, sender: Sender) -> None:
        content = await read_body(receive, read_headers(scope), LIMITS)
        if scope["method"] == "POST" and scope["path"] in CHAT_PATHS:
            content = self._complete(content)
        await unless_left(self._pass(scope, content, sender), receive)

    def _complete(self, content: bytes) -> bytes:
        """Return a request's body as the engine takes it; one that is not as the API has it, as it is.

        Raises:
            ApiError: 400 for a `tool_choice` that cannot be honoured.
        """
        try:
            body = parse_json(content)
            if mistake := find_choice_mistake(body):
                raise ApiError(400, f"tool_choice: {mistake}", param="tool_choice")
            return orjson.dumps(self._address.complete("chat/completions", body))
        except (ValueError, KeyError, TypeError, AttributeError):
            return content  # llama-server says what is wrong

    async def _pass(self, scope: Scope, content: bytes, sender: Sender) -> None:
        assert self._session and self._address.base_url
        query = scope["query_string"].decode("latin-1")
        url = self._address.base_url.removesuffix("/v1") + scope["path"] + (f"?{query}" if query else "")
        headers = {name: value for name, value in read_headers(scope).items() if name in PASSED_HEADERS}
        async with self._session.request(scope["method"], url, data=content or None, headers=headers) as response:
            allowed = [(n.lower().encode(), v.encode()) for n, v in response.headers.items() if n.startswith("Access-")]
            await pass_on(response, sender, allowed)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hold the connections to the engine until the block ends."""
        timeout, connector = aiohttp.ClientTimeout(None), aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False) as session:
            self._session = session
            yield


def build_run_server(server: RunServer) -> Starlette:
    """Return the ASGI app."""
    return run_with_lifespan(server)
