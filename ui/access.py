"""Who reaches the page: an ASGI layer before everything else that it answers.

A browser is let in by a cookie. Here it gets the cookie from the address that `tuneline ui` prints, whose token other
users of the machine do not know; deployed, from a form that takes a key of the gateway. `Host` must be one of the
page's own names, or another site could point its own name at this machine (DNS rebinding), and an `Origin` must be the
page's, or another site's script could open the page's WebSocket with the visitor's cookie. A session that a key opened
ends when the key does, or when what it may see changes.
"""

import html
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

LOGIN, LOGOUT = "/login", "/logout"
MAX_FORM_BYTES = 4_096
MAX_SESSIONS = 10_000
POLICY = (
    # NiceGUI compiles its components in the browser, which needs the two `unsafe-` of scripts.
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with none a browser posts the form with `Origin: null`
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
WRONG_KEYS = RateLimitItemPerMinute(10)
"""Keys that a client may get wrong, which keeps guesses out of the log and the policy's index. None can be guessed."""


@dataclass(frozen=True)
class Visitor:
    """Who was let in."""

    owner: str
    """Whose conversations they see."""
    is_operator: bool = True
    """Whether they see what is not theirs: costs, everybody's traffic, runs."""


LOCAL = Visitor("local")
"""The user of this machine."""
CheckKey = Callable[[str], Visitor | None]
"""Return whose key it is; None if the gateway does not take it."""


@dataclass
class Session:
    """One browser that was let in."""

    visitor: Visitor
    key: str
    """With which the gateway is asked; empty for none."""
    dark: bool | None = None
    """None: as the browser prefers."""


class Access:
    """Lets in who shows the token, or a key that `check_key` takes."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: frozenset[str] | None = None,
        token: str | None = None,
        key: str = "",
        check_key: CheckKey | None = None,
        cookie: str = "tuneline-ui",
        secure: bool = False,
    ) -> None:
        """`hosts`: the page's names with their ports, None where what is before it checks them. `token` opens sessions
        that ask the gateway with `key`."""
        self._app, self._hosts, self._token, self._key = app, hosts, token, key
        self._check_key, self._cookie, self._secure = check_key, cookie, secure
        self._wrong_keys = FixedWindowRateLimiter(MemoryStorage())
        self._sessions: dict[str, Session] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on with its session at `scope["tuneline.session"]` (ASGI)."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "http":
            send = _with_headers(send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if refused := self._refuse(headers):
            await _refuse_all(scope, receive, send, refused)
            return
        identity = self._read_cookie(headers.get("cookie", ""))
        session = self._find(identity)
        if session is None:
            await self._let_in(scope, receive, send)
            return
        if self._check_key and scope["path"] == LOGOUT:
            del self._sessions[identity]
        if scope["path"] == LOGOUT or b"token=" in scope["query_string"]:  # the printed address, opened once more
            await RedirectResponse("/", 303)(scope, receive, send)
            return
        scope["tuneline.session"] = session
        is_socket = scope["type"] == "websocket"
        await self._app(scope, self._while_open(identity, receive) if is_socket else receive, send)

    def find(self, request: Request) -> Session:
        """Return the session of a request that was passed on."""
        session: Session = request.scope["tuneline.session"]
        return session

    def _find(self, identity: str) -> Session | None:
        """Return the session of a cookie; None once its key opens nothing any more, or something else."""
        session = self._sessions.get(identity)
        if session and self._check_key and self._check_key(session.key) != session.visitor:
            del self._sessions[identity]
            return None
        return session

    def _while_open(self, identity: str, receive: Receive) -> Receive:
        """Return what receives a socket's messages until its session ends."""

        async def receive_while_open() -> Message:
            message = await receive()
            return message if self._find(identity) else {"type": "websocket.disconnect", "code": 4403}

        return receive_while_open

    def _refuse(self, headers: dict[str, str]) -> str:
        """Return why a request is refused, with a session or without; empty if it is not."""
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if self._hosts is not None and host not in self._hosts:
            return "this page is not served under this name"
        if origin is not None and origin.lower().partition("://")[2] != host:
            return "another site asks"
        return ""

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await WebSocketClose(4403, "no session")(scope, receive, send)
            return
        request = Request(scope, receive)
        response = await self._log_in(request) if self._check_key else self._take_token(request)
        await response(scope, receive, send)

    def _take_token(self, request: Request) -> Response:
        shown = request.query_params.get("token", "")
        if not self._token or not secrets.compare_digest(shown.encode(), self._token.encode()):
            return PlainTextResponse("open the address that `tuneline ui` printed: it has the token\n", 403)
        return self._open(Session(LOCAL, self._key))

    async def _log_in(self, request: Request) -> Response:
        if request.method != "POST" or request.url.path != LOGIN:
            return HTMLResponse(_form(""), 200 if request.url.path in ("/", LOGIN, LOGOUT) else 403)
        client = request.client.host if request.client else ""
        if not self._wrong_keys.test(WRONG_KEYS, client):
            return HTMLResponse(_form("too many wrong keys; wait a minute"), 429, {"retry-after": "60"})
        form = parse_qs((await _read_form(request)).decode("utf-8", "replace"))
        key = form.get("key", [""])[0].strip()
        visitor = self._check_key(key) if self._check_key and key.isprintable() else None
        if visitor is None:
            self._wrong_keys.hit(WRONG_KEYS, client)
            return HTMLResponse(_form("the gateway does not take this key; a new one counts after a few seconds"), 403)
        return self._open(Session(visitor, key))

    def _open(self, session: Session) -> Response:
        identity = secrets.token_urlsafe(32)
        if len(self._sessions) >= MAX_SESSIONS:
            self._sessions.pop(next(iter(self._sessions)))
        self._sessions[identity] = session
        response = RedirectResponse("/", 303)  # the token is in no history, and in no Referer
        response.set_cookie(self._cookie, identity, httponly=True, samesite="strict", secure=self._secure)
        return response

    def _read_cookie(self, header: str) -> str:
        try:
            morsel = SimpleCookie(header).get(self._cookie)
        except CookieError:
            return ""
        return morsel.value if morsel else ""


def new_token() -> str:
    """Return a token that cannot be guessed."""
    return secrets.token_urlsafe(24)


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *own]}
        await send(message)

    return send_with_headers


async def _refuse_all(scope: Scope, receive: Receive, send: Send, why: str) -> None:
    if scope["type"] == "websocket":
        await WebSocketClose(4403, why)(scope, receive, send)
    else:
        await PlainTextResponse(f"{why}\n", 403)(scope, receive, send)


async def _read_form(request: Request) -> bytes:
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > MAX_FORM_BYTES:
            return b""
    return content


def _form(problem: str) -> str:
    page = Path(__file__).with_name("login.html").read_text(encoding="utf-8")
    return page.replace("PROBLEM", html.escape(problem))
