"""The gateway over HTTP, as the page asks it: any client could do the same."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from tuneline.core.errors import StageFailed
from tuneline.core.web_requests import is_loopback

CONNECT_S = 3.0
LOOK_S = 60.0
"""Longest wait for an answer that no model has a part in; a gateway on Modal may have to start."""
MAX_ERROR_CHARACTERS = 2_000
MAX_LINE_BYTES = 8 << 20
REQUEST_ID, CONVERSATION, STYLE = "x-request-id", "x-tuneline-conversation", "x-tuneline-style"


class GatewayDown(StageFailed):
    """Nothing answers at the gateway's address."""


@dataclass(frozen=True)
class Began:
    """A stream's first item: the request's id, and of the assistant its conversation."""

    request: str
    conversation: str


class GatewayClient:
    """Asks one gateway with one key."""

    def __init__(self, url: str, key: str = "", socket: str | None = None, *, follows_redirects: bool = False) -> None:
        """`url` is without `/v1`; with `socket`, a Unix socket, its host does not count.

        `follows_redirects`: on Modal an answer that takes longer than 150 s is behind one.
        """
        self.url, self._key, self._socket = url.rstrip("/"), key, socket
        self._follows_redirects = follows_redirects
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def list_models(self) -> list[str]:
        """Return the names that the key may ask for.

        Raises:
            GatewayDown: nothing answers. StageFailed: it refuses the key, or its answer is none.
        """
        try:
            return [str(model["id"]) for model in orjson.loads(await self._get("/v1/models"))["data"]]
        except (ValueError, KeyError, TypeError):
            raise StageFailed(f"{self.url}/v1/models: its answer is no list of models") from None

    async def read_metrics(self) -> str:
        """Return the gateway's metrics in Prometheus' text format. Raises what `list_models` raises."""
        return (await self._get("/metrics")).decode("utf-8", "replace")

    async def send_feedback(self, request: str, rating: str | None = None, correction: str | None = None) -> None:
        """Send what a person says of an answer. Raises what `list_models` raises."""
        said = {"rating": rating, "correction": correction}
        body = {"id": request} | {name: value for name, value in said.items() if value is not None}
        async with self._request("POST", "/v1/feedback", body, {}, LOOK_S) as response:
            await response.read()

    def stream_chat(self, body: dict[str, Any], headers: dict[str, str]) -> AsyncIterator[Began | dict[str, Any]]:
        """Yield `Began`, then the chunks of an answer. Raises what `list_models` raises, also on the way."""
        return self._stream("/v1/chat/completions", body | {"stream": True}, headers)

    def stream_decision(self, call: str, confirm: bool) -> AsyncIterator[Began | dict[str, Any]]:
        """Yield what follows when a call that waits is confirmed or declined, as `stream_chat` does."""
        return self._stream(f"/v1/assistant/calls/{call}", {"confirm": confirm, "stream": True}, {})

    async def _stream(
        self, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> AsyncIterator[Began | dict[str, Any]]:
        async with self._request("POST", path, body, headers, None) as response:
            yield Began(response.headers.get(REQUEST_ID, ""), response.headers.get(CONVERSATION, ""))
            async for line in response.content:
                if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
                    continue
                try:
                    chunk = orjson.loads(line[5:])
                except ValueError:
                    raise StageFailed(f"{self.url}: its stream is no JSON") from None
                if error := chunk.get("error"):
                    raise StageFailed(_explain(error))
                yield chunk

    async def _get(self, path: str) -> bytes:
        async with self._request("GET", path, None, {}, LOOK_S) as response:
            return await response.read()

    @contextlib.asynccontextmanager
    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None, headers: dict[str, str], timeout_s: float | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        session = self._open()
        content = None if body is None else orjson.dumps(body)
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S)
        own = {"content-type": "application/json"} | ({"authorization": f"Bearer {self._key}"} if self._key else {})
        try:
            async with session.request(
                method,
                self.url + path,
                data=content,
                headers=own | headers,
                timeout=timeout,
                allow_redirects=self._follows_redirects,
            ) as response:
                if response.status != 200:
                    raise StageFailed(await self._read_error(response))
                yield response
        except (aiohttp.ClientConnectorError, TimeoutError):
            remedy = "; start one with `tuneline gateway`" if is_loopback(self.url) else ""
            raise GatewayDown(f"no gateway answers at {self.url}{remedy}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise StageFailed(f"{self.url}: the connection broke ({type(error).__name__})") from None

    async def _read_error(self, response: aiohttp.ClientResponse) -> str:
        content = await response.content.read(MAX_ERROR_CHARACTERS)
        if response.status == 401 and self._key:
            return f"{self.url} does not take the key"
        if response.status == 401:
            return f"{self.url} demands a key: set TUNELINE_API_KEY to one of `tuneline keys add OWNER`"
        try:
            return _explain(orjson.loads(content)["error"])
        except (ValueError, KeyError, TypeError):
            return f"{self.url} answered {response.status}"

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.UnixConnector(self._socket) if self._socket else aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(connector=connector, read_bufsize=MAX_LINE_BYTES)
        return self._session


def _explain(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:MAX_ERROR_CHARACTERS]
