"""Who reaches the page: whoever shows its token or a key, by the page's own name, from the page itself."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from typer.testing import CliRunner

from tuneline.cli import app as command
from tuneline.ui.access import Access, new_token

OWN = "http://127.0.0.1:8090"
SOCKET = "ws://127.0.0.1:8090/ws"


def inner() -> Starlette:
    async def show(request: Any) -> PlainTextResponse:
        return PlainTextResponse(request.scope["tuneline.session"].key)

    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("open")
        await socket.close()

    return Starlette(routes=[Route("/", show, methods=["GET", "POST"]), WebSocketRoute("/ws", echo)])


def client(**settings: Any) -> TestClient:
    guarded = Access(inner(), hosts=frozenset({"127.0.0.1:8090"}), **settings)
    return TestClient(guarded, base_url=OWN, follow_redirects=False)


def test_the_token_opens_the_page_and_is_in_no_address_after() -> None:
    token = new_token()
    browser = client(token=token, key="tl-own")
    assert browser.get("/").status_code == 403
    assert browser.get("/?token=wrong").status_code == 403
    opened = browser.get(f"/?token={token}")
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    assert "HttpOnly" in opened.headers["set-cookie"] and "samesite=strict" in opened.headers["set-cookie"].lower()
    shown = browser.get("/")
    assert (shown.status_code, shown.text) == (200, "tl-own")
    assert "connect-src 'self'" in shown.headers["content-security-policy"]
    assert browser.get(f"/?token={token}").headers["location"] == "/"


@pytest.mark.parametrize(
    "headers", [{"host": "evil.example:8090"}, {"origin": "http://evil.example"}, {"origin": "null"}]
)
def test_another_name_and_another_site_are_refused_even_with_the_cookie(headers: dict[str, str]) -> None:
    token = new_token()
    browser = client(token=token)
    browser.get(f"/?token={token}")
    assert browser.get("/", headers={"origin": OWN}).status_code == 200
    assert browser.get("/", headers=headers).status_code == 403
    with pytest.raises(WebSocketDisconnect), browser.websocket_connect(SOCKET, headers=headers):
        pass


def test_a_socket_needs_the_cookie() -> None:
    token = new_token()
    browser = client(token=token)
    with pytest.raises(WebSocketDisconnect), browser.websocket_connect(SOCKET):
        pass
    browser.get(f"/?token={token}")
    with browser.websocket_connect(SOCKET, headers={"origin": OWN}) as socket:
        assert socket.receive_text() == "open"


def test_a_key_that_the_gateway_takes_opens_the_deployed_page() -> None:
    async def check(key: str) -> bool:
        return key == "tl-good"

    browser = client(check_key=check)
    assert "<form" in browser.get("/").text
    refused = browser.post("/login", data={"key": "<b>tl-bad"})
    assert refused.status_code == 403 and "<b>" not in refused.text
    assert browser.post("/login", data={"key": "x" * 10_000}).status_code == 403
    assert browser.post("/login", data={"key": "tl-good"}).status_code == 303
    assert browser.get("/").text == "tl-good"


def test_without_the_extra_the_command_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    done = CliRunner().invoke(command, ["ui", "--no-open"])
    assert "pip install 'tuneline[ui]'" in str(done.exception)
