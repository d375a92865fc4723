"""A host's HTTP API: requests with its key, retries that wait as long as it says, and files streamed from disk."""

import base64
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.hosts import Host
from tuneline.core.environment import read_stated_variable
from tuneline.core.errors import BadRequest, NotFound, StageFailed, TunelineError
from tuneline.core.redaction import redact
from tuneline.core.web_requests import is_loopback, origin, read_retry_after

RETRIES = 4
"""Of a request that was refused for now (429, 5xx) or had no answer; a POST without an answer is not repeated."""
LONGEST_WAIT_S = 120.0
"""A host that asks for more is not waited for."""
TIMEOUT_S = 120.0
"""Without a byte in either direction."""
CHUNK_BYTES = 1 << 20
REFUSED_FOR_NOW = (429, 500, 502, 503, 504)
POLL_EVERY_S = 5.0


@dataclass(frozen=True)
class Answer:
    """A response whose body was read."""

    status: int
    json: Any
    """The body as JSON; None if it is not."""


class HttpApi:
    """Requests to one host. Its key is read from the environment with the first request, and sent nowhere else."""

    def __init__(self, host: Host, *, needs_key: bool = True, user: str = "") -> None:
        """With a `user` the key is sent as that user's password (RFC 7617), else as a bearer token."""
        self._host, self._needs_key, self._user = host, needs_key, user

    def request(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        allow: tuple[int, ...] = (),
        params: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return the answer to a request at a path of the API.

        A status of 400 or more is an error unless it is one of `allow`.

        Raises:
            BadRequest: the key is missing or refused, or the request is wrong. NotFound: 404.
            StageFailed: no quota, or no answer also after retries.
        """
        url = f"{self._host.api}{path}"
        return self._send(method, url, lambda: {"json": json, "params": params}, self._headers(url), allow)

    def upload(
        self, method: str, url: str, file: Path, headers: Mapping[str, str] | None = None, *, with_key: bool = False
    ) -> None:
        """Send a file as a request's body, in pieces; `url` is a path of the API, or an address that the host gave.

        Raises:
            As `request`.
        """
        address = f"{self._host.api}{url}" if url.startswith("/") else url
        size = {"Content-Length": str(file.stat().st_size)}
        keys = self._headers(address) if with_key else {}
        self._send(method, address, lambda: {"content": _read_pieces(file)}, {**keys, **size, **(headers or {})}, ())

    def post_form(
        self,
        path: str,
        file: Path,
        fields: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the JSON of the answer to a form with a file, which is streamed, and `fields`.

        Raises:
            As `request`.
        """
        url = f"{self._host.api}{path}"
        with file.open("rb") as content:

            def form() -> dict[str, Any]:
                content.seek(0)
                upload = (file.name, content, "application/octet-stream")
                return {"files": {"file": upload}, "data": dict(fields or {}), "params": params}

            return self._send("POST", url, form, self._headers(url), ()).json

    def wait_for(
        self, path: str, is_ready: Callable[[Any], bool], timeout_s: float, params: Mapping[str, str] | None = None
    ) -> Any:
        """Return the JSON at a path once `is_ready(json)`, which may raise for a state that never gets ready.

        Raises:
            StageFailed: it took longer than `timeout_s`. As `request`.
        """
        deadline = time.monotonic() + timeout_s
        while not is_ready(answer := self.request("GET", path, params=params).json):
            if time.monotonic() > deadline:
                raise StageFailed(
                    f"{self._host.title}: not ready after {timeout_s / 60:.0f} minutes: GET {path}; run the same "
                    "command again to wait on"
                )
            time.sleep(POLL_EVERY_S)
        return answer

    def read(self, answer: Any, *keys: str) -> str:
        """Return a text or number that an answer has under nested keys.

        Raises:
            StageFailed: it has none, so the interface is another than the one that this was written for.
        """
        value = answer
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise StageFailed(
                f"{self._host.title}: unexpected answer: no {'.'.join(keys)} in {redact(str(answer))[:200]}; its "
                "interface may have changed: docs/publish.md"
            )
        return str(value)

    def find(self, answer: Any, key: str, matches: Callable[[str], bool]) -> dict[str, Any] | None:
        """Return the first object in the list `data` of an answer whose `key` matches, or None.

        Raises:
            StageFailed: the answer has no such list.
        """
        entries = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(entries, list):
            raise StageFailed(
                f"{self._host.title}: unexpected answer: no list `data` in {redact(str(answer))[:200]}; its interface "
                "may have changed: docs/publish.md"
            )
        return next((e for e in entries if isinstance(e, dict) and matches(str(e.get(key, "")))), None)

    def _headers(self, url: str) -> dict[str, str]:
        variable = self._host.key_variable
        if not (self._needs_key and variable):
            return {}
        key = read_stated_variable(variable)
        if not key:
            raise BadRequest(f"{self._host.title}: {variable} is not set; `export {variable}=…` with your key")
        if not (url.startswith("https://") or is_loopback(url)):
            raise BadRequest(f"{self._host.title}: {url}: a key is sent over https only")
        if self._user:
            return {"Authorization": f"Basic {base64.b64encode(f'{self._user}:{key}'.encode()).decode()}"}
        return {"Authorization": f"Bearer {key}"}

    def _send(
        self,
        method: str,
        url: str,
        body: Callable[[], dict[str, Any]],
        headers: Mapping[str, str],
        allow: tuple[int, ...],
    ) -> Answer:
        import httpx2

        for attempt in range(RETRIES + 1):
            try:
                with _client() as client:
                    response = client.request(method, url, headers=dict(headers), **body())
            except httpx2.HTTPError as error:
                if attempt == RETRIES or (method == "POST" and not isinstance(error, httpx2.ConnectError)):
                    raise self._connection_error(error, url) from None
                time.sleep(2.0**attempt / 2)
                continue
            if response.status_code in REFUSED_FOR_NOW and response.status_code not in allow and attempt < RETRIES:
                self._wait(response, attempt)
                continue
            break
        answer = Answer(response.status_code, _parse(response))
        if response.status_code >= 300 and response.status_code not in allow:
            raise self._error(answer, method, url)
        return answer

    def _connection_error(self, error: Exception, url: str) -> StageFailed:
        import httpx2

        title, (scheme, host, port) = self._host.title, origin(url)
        if isinstance(error, httpx2.ConnectError):
            return StageFailed(
                f"{title}: nothing answers at {scheme}://{host}:{port}; is it running, is there a network?"
            )
        return StageFailed(f"{title}: the connection broke ({type(error).__name__}); run the same command again")

    def _wait(self, response: Any, attempt: int) -> None:
        seconds = read_retry_after(response.headers.get("Retry-After")) or 2.0**attempt / 2
        if seconds > LONGEST_WAIT_S:
            raise StageFailed(
                f"{self._host.title}: asks to wait {seconds:.0f} s ({response.status_code}); run the same command then"
            )
        time.sleep(seconds)

    def _error(self, answer: Answer, method: str, url: str) -> TunelineError:
        status, title, variable = answer.status, self._host.title, self._host.key_variable
        detail = redact(_explain(answer.json))
        where = f"{method} {url.removeprefix(self._host.api).partition('?')[0]}"
        if status in (401, 403):
            return BadRequest(f"{title}: the key in {variable} was refused ({status}): {detail}; set one that may")
        if status in (402, 412):  # 412 is how Fireworks answers an account that may not spend
            return StageFailed(f"{title}: no quota ({status}): {detail}; raise it in your account")
        if status == 404:
            return NotFound(f"{title}: {where}: {detail}")
        if status == 429:
            return StageFailed(f"{title}: too many requests (429), even after waiting: {detail}; try later")
        return (BadRequest if 400 <= status < 500 else StageFailed)(f"{title}: {where}: {status}: {detail}")


def _client() -> Any:
    """Return a client that follows no redirects: a key would go along."""
    import httpx2

    return httpx2.Client(timeout=TIMEOUT_S, follow_redirects=False)


def _read_pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        while piece := content.read(CHUNK_BYTES):
            yield piece


def _parse(response: Any) -> Any:
    with contextlib.suppress(ValueError, UnicodeDecodeError):
        return response.json()
    return None


def _explain(body: Any) -> str:
    """Return what an error's body says, in any of the forms that hosts use."""
    error = body.get("error", body) if isinstance(body, dict) else body
    text = (error.get("message") or error.get("detail")) if isinstance(error, dict) else error
    return str(text or "no reason given")[:300]
