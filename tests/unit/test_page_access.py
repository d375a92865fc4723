"""Who reaches the page: whoever shows its token or a key, by the page's own name, from the page itself."""

from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from typer.testing import CliRunner

from tuneline.cli import app as command
from tuneline.endpoints import keys
from tuneline.ui.access import Access, Visitor, new_token
from tuneline.ui.deployed_page import find_visitors

OWN = "http://127.0.0.1:8090"
SOCKET = "ws://127.0.0.1:8090/ws"


def inner() -> Starlette:
    async def show(request: Any) -> PlainTextResponse:
        return PlainTextResponse(request.scope["tuneline.session"].key)

    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("open")
        await socket.close()

    async def echo_all(socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(text)
        await socket.close()

    routes = [Route("/", show, methods=["GET", "POST"]), WebSocketRoute("/ws", echo), WebSocketRoute("/echo", echo_all)]
    return Starlette(routes=routes)


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
    assert shown.headers["referrer-policy"] == "same-origin"  # with `no-referrer` a form's own `Origin` is null
    assert browser.get(f"/?token={token}").headers["location"] == "/"


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example:8090"}, {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://[::1"}],
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


def log_in(browser: TestClient, key: str) -> int:
    """Post the form, and keep the cookie, which a client sends back over HTTPS alone."""
    browser.cookies.clear()
    response = browser.post("/login", data={"key": key})
    browser.headers["cookie"] = response.headers.get("set-cookie", "").partition(";")[0]
    return response.status_code


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path))
    return tmp_path


def deployed() -> TestClient:
    return client(check_key=find_visitors(), secure=True)


def test_a_key_that_the_gateway_takes_opens_the_deployed_page(policy: Path) -> None:
    key, browser = keys.add_key("ann"), deployed()
    assert "<form" in browser.get("/").text
    assert browser.get("/reports/one").status_code == 403
    refused = browser.post("/login", data={"key": "<b>tl-bad"})
    assert refused.status_code == 403 and "<b>" not in refused.text and "set-cookie" not in refused.headers
    assert browser.post("/login", data={"key": "x" * 10_000}).status_code == 403
    assert browser.post("/login", data={"key": "tl-ä\ud800".encode("utf-8", "surrogatepass")}).status_code == 403
    opened = browser.post("/login", data={"key": key})
    attributes = opened.headers["set-cookie"].lower()
    assert all(word in attributes for word in ("; secure", "httponly", "samesite=strict")), attributes
    assert log_in(browser, key) == 303 and browser.get("/").text == key


def test_ten_wrong_keys_a_minute_are_answered(policy: Path) -> None:
    key, browser = keys.add_key("ann"), deployed()
    assert [log_in(browser, f"tl-{number}") for number in range(12)] == [403] * 10 + [429] * 2
    assert log_in(browser, key) == 429  # also the right one, until the minute is over
    assert log_in(deployed(), key) == 303


def test_a_session_ends_with_its_key_and_with_what_the_key_may(policy: Path) -> None:
    browser, key = deployed(), keys.add_key("ann")
    assert log_in(browser, key) == 303
    with browser.websocket_connect(SOCKET, headers={"origin": OWN}) as socket:
        assert socket.receive_text() == "open"
    keys.change_key("ann", '{"operator": true}')
    assert "<form" in browser.get("/").text
    assert log_in(browser, key) == 303 and browser.get("/").text == key
    keys.revoke_key("ann")
    assert "<form" in browser.get("/").text and log_in(browser, key) == 403


def test_an_open_socket_ends_with_its_key(policy: Path) -> None:
    browser, key = deployed(), keys.add_key("ann")
    log_in(browser, key)
    with browser.websocket_connect(SOCKET.replace("/ws", "/echo"), headers={"origin": OWN}) as socket:
        socket.send_text("one")
        assert socket.receive_text() == "one"
        keys.revoke_key("ann")
        socket.send_text("two")
        with pytest.raises(WebSocketDisconnect):
            assert socket.receive_text() != "two"


def test_who_logs_out_needs_the_key_again(policy: Path) -> None:
    browser, key = deployed(), keys.add_key("ann")
    log_in(browser, key)
    assert browser.get("/logout").headers["location"] == "/"
    assert "<form" in browser.get("/").text
    here = client(token="t")
    here.get("/?token=t")
    here.get("/logout")
    assert here.get("/").status_code == 200  # of this machine there is one user, and no form


def test_what_is_not_theirs_is_for_operators(policy: Path) -> None:
    key, operators = keys.add_key("ann"), keys.add_key("bo", '{"operator": true}')
    find = find_visitors()
    assert find(key) == Visitor("ann", is_operator=False)
    assert find(operators) == Visitor("bo", is_operator=True)
    assert find("tl-no") is None
    keys.change_key("bo", '{"operator": false}')
    assert find(operators) == Visitor("bo", is_operator=False)


def test_without_the_extra_the_command_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    done = CliRunner().invoke(command, ["ui", "--no-open"])
    assert "pip install 'tuneline[ui]'" in str(done.exception)
