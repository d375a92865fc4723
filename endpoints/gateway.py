"""The front door of an engine: keys, readiness, and the names of promoted models. A FastAPI app.

It answers at once while engines still start: 503 with Retry-After, as clients expect of a server that boots. What is
promoted is looked up again every few seconds; a new version is started beside the old one, which serves until then.
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
from tuneline.endpoints.engine_pool import Engines
from tuneline.endpoints.keys import owner_of

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
ANSWER_WITHIN_S = 600.0
RETRY_AFTER_S = 5
ASKED = ("chat/completions", "completions")
"""What is passed on below `/v1/`: an engine has more there, and not for everybody (vLLM loads adapters by a path)."""
HOP_BY_HOP = {"connection", "content-length", "content-encoding", "transfer-encoding"}
"""Headers of one hop, which a proxy does not pass on (RFC 9110, 7.6.1)."""


def front(engines: Engines, fresh: Callable[[], None] = lambda: None, *, with_keys: bool = True) -> FastAPI:
    """The app. `fresh` brings the policy folder up to date before each look at it."""
    app = FastAPI(title="Tuneline", docs_url=None, redoc_url=None, openapi_url=None, lifespan=_lifespan(engines, fresh))

    @app.get("/health")
    async def health() -> Response:
        """200 when everything promoted answers."""
        return JSONResponse(engines.state(), status_code=200 if engines.ready else 503)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        if with_keys and not _owner(request):
            return _unauthorized()
        data = [{"id": name, "object": "model", "owned_by": "tuneline"} for name in engines.state()]
        return JSONResponse({"object": "list", "data": data})

    @app.post("/v1/{path:path}")
    async def ask(path: str, request: Request) -> Response:
        if with_keys and not _owner(request):
            return _unauthorized()
        if path not in ASKED:
            return _error(404, f"/v1/{path}: not answered here; there are {', '.join(ASKED)}")
        try:
            body = json.loads(await request.body())
            name = body["model"]
        except (ValueError, TypeError, KeyError):
            return _error(400, "the body is JSON with a `model`")
        body.pop("chat_template", None)  # a program to the engine
        for _ in range(2):  # the version it found may be replaced, and its engine gone, before it is asked
            try:
                url, told, narrowing = engines.find(name)
            except NotFound as error:
                return _error(404, str(error))
            if url is None:
                return _error(503, f"{name} is starting; try again", {"Retry-After": str(RETRY_AFTER_S)})
            sent = body | told
            if path == "chat/completions" and narrowing and body.get("tools"):
                try:
                    sent["tools"] = narrowing.tools(body["messages"], body["tools"], body.get("tool_choice"))
                except (TypeError, KeyError, AttributeError):
                    return _error(400, "messages and tools are as in OpenAI's chat API")
            if answer := await _passed_on(app.state.client, f"{url}/{path}", sent):
                return answer
            if engines.find(name)[0] == url:
                break
        return _error(503, "the engine does not answer; try again", {"Retry-After": str(RETRY_AFTER_S)})

    return app


async def _passed_on(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> Response | None:
    """The engine's answer as it comes; None if it does not answer."""
    request = client.build_request("POST", url, json=body)
    try:
        answer = await client.send(request, stream=True)
    except httpx.TransportError:
        return None
    headers = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}

    async def pieces() -> AsyncIterator[bytes]:
        try:
            async for piece in answer.aiter_bytes():
                yield piece
        finally:
            await answer.aclose()

    return StreamingResponse(pieces(), status_code=answer.status_code, headers=headers)


def _lifespan(engines: Engines, fresh: Callable[[], None]) -> Callable[[FastAPI], Any]:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=ANSWER_WITHIN_S) as client:
            app.state.client = client
            following = asyncio.create_task(_follow(engines, fresh))
            try:
                yield
            finally:
                following.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await following
                await asyncio.to_thread(engines.stop)

    return lifespan


async def _follow(engines: Engines, fresh: Callable[[], None]) -> None:
    while True:
        try:
            await asyncio.to_thread(fresh)
            await asyncio.to_thread(engines.catch_up)
        except (TunelineError, OSError) as error:
            log.error("what is promoted cannot be served: %s", error)
        await asyncio.sleep(LOOK_EVERY_S)


def _owner(request: Request) -> str | None:
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    return owner_of(key.strip()) if kind.lower() == "bearer" else None


def _unauthorized() -> Response:
    return _error(401, "a key is needed: `Authorization: Bearer …`", {"WWW-Authenticate": "Bearer"})


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    body = {"error": {"message": message, "type": "invalid_request_error" if status < 500 else "server_error"}}
    return JSONResponse(body, status_code=status, headers=headers)
