"""The gateway before the engines: keys, readiness, and the names of promoted models. A FastAPI app.

It responds while engines still start: 503 with Retry-After, as clients expect of a server that boots. The promotions
are read again every few seconds; a new version is started beside the old one, which serves until then.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tuneline.core.errors import NotFound, TunelineError
from tuneline.endpoints.engine_pool import EnginePool, Upstream
from tuneline.endpoints.keys import find_owner

log = logging.getLogger(__name__)

POLL_INTERVAL_S = 5.0
ENGINE_TIMEOUT_S = 600.0
RETRY_AFTER_S = 5
FORWARDED_PATHS = ("chat/completions", "completions")
"""Paths below `/v1/` that are forwarded: an engine has more, not for everybody (vLLM loads adapters from a path)."""
HOP_BY_HOP = {"connection", "content-length", "content-encoding", "transfer-encoding"}
"""Headers of one hop, which a proxy does not forward (RFC 9110, 7.6.1)."""


def build_gateway(
    engines: EnginePool, refresh: Callable[[], None] = lambda: None, *, with_keys: bool = True
) -> FastAPI:
    """Return the app. `refresh` brings the policy folder up to date before each look at the promotions."""
    app = FastAPI(
        title="Tuneline", docs_url=None, redoc_url=None, openapi_url=None, lifespan=_lifespan(engines, refresh)
    )

    @app.get("/health")
    async def health() -> Response:
        """200 when everything promoted answers."""
        return JSONResponse(engines.states(), status_code=200 if engines.ready else 503)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        if with_keys and not _owner(request):
            return _unauthorized()
        data = [{"id": name, "object": "model", "owned_by": "tuneline"} for name in engines.states()]
        return JSONResponse({"object": "list", "data": data})

    @app.post("/v1/{path:path}")
    async def complete(path: str, request: Request) -> Response:
        if with_keys and not _owner(request):
            return _unauthorized()
        if path not in FORWARDED_PATHS:
            return _error(404, f"/v1/{path}: not answered here; there are {', '.join(FORWARDED_PATHS)}")
        body = _parse_body(await request.body())
        if body is None:
            return _error(400, "the body is JSON with a `model`, which is a text")
        body.pop("chat_template", None)  # a program to the engine
        return await _complete(app.state.client, engines, body["model"], path, body)

    return app


def _parse_body(content: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a request's body, or None if there is none with a text as its `model`."""
    try:
        body = json.loads(content)
        body["model"].encode()  # half a character is no text
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


async def _complete(
    client: httpx.AsyncClient, engines: EnginePool, model: str, path: str, body: dict[str, Any]
) -> Response:
    """Return the response of the engine that serves `model`, or an error response."""
    previous_url = None
    for _ in range(2):  # the version may be replaced, and its engine stopped, before the request reaches it
        try:
            upstream = engines.resolve(model)
        except NotFound as error:
            return _error(404, str(error))
        if upstream.base_url is None:
            return _error(503, f"{model} is starting; try again", {"Retry-After": str(RETRY_AFTER_S)})
        if upstream.base_url == previous_url:
            break
        previous_url = upstream.base_url
        try:
            payload = _payload(upstream, path, body)
            engine_request = client.build_request("POST", f"{upstream.base_url}/{path}", json=payload)
        except (TypeError, KeyError, AttributeError, ValueError, RecursionError):
            # not as the API has it, or with numbers and characters that JSON has not
            return _error(400, "messages and tools are as in OpenAI's chat API")
        if response := await _send(client, engine_request):
            return response
    return _error(503, "the engine does not answer; try again", {"Retry-After": str(RETRY_AFTER_S)})


def _payload(upstream: Upstream, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the request body for the engine: its own model name and template, and the selected tools."""
    payload = body | upstream.fields
    if path == "chat/completions" and upstream.tool_selector and body.get("tools"):
        payload["tools"] = upstream.tool_selector.select(body["messages"], body["tools"], body.get("tool_choice"))
    return payload


async def _send(client: httpx.AsyncClient, request: httpx.Request) -> Response | None:
    """Return the engine's response as a stream, or None if the engine does not respond."""
    try:
        response = await client.send(request, stream=True)
    except httpx.TransportError:
        return None
    headers = {k: v for k, v in response.headers.items() if k.lower() not in HOP_BY_HOP}

    async def stream() -> AsyncIterator[bytes]:
        try:
            async for chunk in response.aiter_bytes():
                yield chunk
        finally:
            await response.aclose()

    return StreamingResponse(stream(), status_code=response.status_code, headers=headers)


def _lifespan(engines: EnginePool, refresh: Callable[[], None]) -> Callable[[FastAPI], Any]:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=ENGINE_TIMEOUT_S) as client:
            app.state.client = client
            update_task = asyncio.create_task(_keep_up_to_date(engines, refresh))
            try:
                yield
            finally:
                update_task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await update_task
                await asyncio.to_thread(engines.stop)

    return lifespan


async def _keep_up_to_date(engines: EnginePool, refresh: Callable[[], None]) -> None:
    while True:
        try:
            await asyncio.to_thread(refresh)
            await asyncio.to_thread(engines.update)
        except (TunelineError, OSError) as error:
            log.error("what is promoted cannot be served: %s", error)
        await asyncio.sleep(POLL_INTERVAL_S)


def _owner(request: Request) -> str | None:
    """Return the owner of the request's key, or None without a valid key."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return find_owner(key.strip()) if scheme.lower() == "bearer" else None


def _unauthorized() -> Response:
    return _error(401, "a key is needed: `Authorization: Bearer …`", {"WWW-Authenticate": "Bearer"})


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    body = {"error": {"message": message, "type": "invalid_request_error" if status < 500 else "server_error"}}
    return JSONResponse(body, status_code=status, headers=headers)
