"""A gateway inside the page's process for the finished runs of this machine, at a Unix socket only this user opens.

It has nothing of gateway.yaml: names, keys and traffic are the matter of `tuneline gateway`. It writes to the same
request log, with what was said, so that a correction is a training row (`tuneline logs export`).
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn

from tuneline.endpoints.gateway.app import Gateway, build_app
from tuneline.endpoints.gateway.settings_file import SettingsFile
from tuneline.ui.gateway_client import GatewayClient
from tuneline.ui.run_engines import RunEngines

SETTINGS = "models: {}\nlog: {prompts: 1}\n"
GRACE_S = 2
POLL_S = 0.02


@contextlib.asynccontextmanager
async def serve_runs(engines: RunEngines) -> AsyncIterator[GatewayClient]:
    """Serve `engines` until the block ends, and yield a client of the gateway."""
    with tempfile.TemporaryDirectory(prefix="tuneline-ui-") as folder:  # mode 0700
        settings = Path(folder) / "gateway.yaml"
        settings.write_text(SETTINGS, encoding="utf-8")
        socket = str(Path(folder) / "gateway.sock")
        app = build_app(Gateway(SettingsFile(settings), engines, with_keys=False))
        server = _Server(
            uvicorn.Config(app, uds=socket, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_S)
        )
        serving = asyncio.create_task(server.serve())
        while not server.started and not serving.done():
            await asyncio.sleep(POLL_S)
        client = GatewayClient("http://runs", socket=socket)
        try:
            yield client
        finally:
            await client.close()
            server.should_exit = True
            await serving
            await asyncio.to_thread(engines.stop)


class _Server(uvicorn.Server):
    """A server beside the page's, which is the one that takes signals."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield
