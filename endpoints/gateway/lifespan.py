"""An ASGI app that works beside its requests for as long as its server runs."""

import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

from starlette.applications import Starlette
from starlette.routing import Mount

from tuneline.endpoints.gateway.http_messages import Receive, Scope, Send


class RunningApp(Protocol):
    """Answers requests; `running` is entered when the server starts and left when it stops."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def running(self) -> contextlib.AbstractAsyncContextManager[None]: ...


def run_with_lifespan(app: RunningApp) -> Starlette:
    """Return an ASGI app that sends each request to `app`, and is within `app.running()` for its lifespan."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with app.running():
            yield

    return Starlette(routes=[Mount("/", app=app)], lifespan=lifespan)
