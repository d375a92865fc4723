"""Deployed apps: what they declare, their endpoints, schedules, logs; and what outlives a plane."""

import time
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.rehearsal.conftest import APPS, MODAL, Stage, eventually
from tuneline.core.errors import Locked
from tuneline.rehearsal.command import run_rehearsed
from tuneline.rehearsal.session import Rehearsal

WEB = str(APPS / "web.py")


@pytest.fixture(scope="module")
def urls(stage: Stage) -> dict[str, str]:
    began = time.monotonic()
    out = stage.modal("deploy", WEB)
    assert time.monotonic() - began < 20  # 2 s on two idle cores
    declared = stage.deployed("web")["functions"]
    urls = {name: function["urls"][""] for name, function in declared.items() if function["urls"]}
    assert all(url in out for url in urls.values())
    return urls


def test_what_was_declared_is_read_back(stage: Stage, urls: dict[str, str]) -> None:
    functions = stage.deployed("web")["functions"]
    streamed = functions["streamed"]
    assert (streamed["gpu"], streamed["memory_mib"], streamed["timeout_s"], streamed["secrets"]) == (
        "H100:2",
        2048,
        120,
        [],
    )
    assert any("fastapi==0.133.0" in layer for layer in streamed["layers"])
    assert functions["weekly"]["schedule"]["cron"]["cronString"] == "0 6 * * 1"
    assert functions["weekly"]["retries"] == 2
    assert functions["weekly"]["volumes"] == {"/disk": "web"}
    assert functions["daily"]["schedule"]["period"]["days"] == 1
    assert set(urls) == {"streamed", "served", "guarded"}


def test_an_answer_comes_piece_by_piece(urls: dict[str, str]) -> None:
    arrived = []
    with httpx.stream("GET", f"{urls['streamed']}/pieces", timeout=60) as answer:
        for piece in answer.iter_text():
            arrived.append((piece, time.monotonic()))
    assert "".join(piece for piece, _ in arrived) == "first,second"
    assert arrived[-1][1] - arrived[0][1] > 0.5


def test_an_answer_that_takes_long_is_waited_for_elsewhere(stage: Stage, urls: dict[str, str]) -> None:
    stage.rehearsal.plane.redirect_after_s = 0.3
    try:
        first = httpx.get(f"{urls['streamed']}/slow", timeout=60)
        assert first.status_code == 303 and "__modal_function_call_id=fc-" in first.headers["Location"]
        stage.rehearsal.plane.redirect_after_s = 60
        again = httpx.get(urls["streamed"] + first.headers["Location"], timeout=60)
        assert again.json() == "done"
    finally:
        stage.rehearsal.plane.redirect_after_s = 150


def test_a_websocket_carries_words_both_ways(urls: dict[str, str]) -> None:
    address = urls["streamed"].replace("http", "ws") + "/socket"
    with pytest.raises(InvalidStatus, match="403"), connect(address):
        pass
    with connect(f"{address}?word=hush", subprotocols=[Subprotocol("other"), Subprotocol("words")]) as socket:
        assert socket.subprotocol == "words"
        for word in ("one", "two" * 1000):
            socket.send(word)
            assert (socket.recv(timeout=30), socket.recv(timeout=30)) == (word[::-1], word.encode())
        socket.send("bye")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=30)
        assert closed.value.rcvd and closed.value.rcvd.code == 4000


def test_the_app_is_told_that_a_browser_left(stage: Stage, urls: dict[str, str]) -> None:
    with connect(urls["streamed"].replace("http", "ws") + "/socket?word=hush") as socket:
        socket.send("gone")
        assert socket.recv(timeout=30) == "enog"
    eventually(lambda: "left after gone" in stage.modal("app", "logs", "web"))


def test_a_web_server_is_awaited_and_answers(urls: dict[str, str]) -> None:
    assert "web.py" in httpx.get(urls["served"], timeout=60).text


def test_proxy_auth_is_asked_for(urls: dict[str, str]) -> None:
    assert httpx.get(urls["guarded"], timeout=60).status_code == 401
    headers = {"Modal-Key": "wk-x", "Modal-Secret": "ws-x"}
    assert httpx.get(urls["guarded"], headers=headers, timeout=60).json() == "in"


def test_a_schedule_is_triggered_and_its_log_read(stage: Stage, urls: dict[str, str]) -> None:
    assert "the week is over" in stage.tuneline("rehearse", "--state", str(stage.folder), "trigger", "web", "weekly")
    failed = stage.tuneline("rehearse", "--state", str(stage.folder), "trigger", "web", "daily", code=1)
    assert "daily failed" in failed and "a bad day" in failed
    assert "'monthly' not found" in stage.tuneline(
        "rehearse", "--state", str(stage.folder), "trigger", "web", "monthly", code=2
    )
    assert "the week is over" in stage.modal("app", "logs", "web")
    assert "the week is over" not in stage.modal("app", "logs", "web", "--search", "a bad day")


def test_a_folder_has_one_plane(stage: Stage) -> None:
    with pytest.raises(Locked, match="another rehearsal is running"):
        Rehearsal(stage.folder)


def test_what_is_deployed_outlives_its_plane(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_rehearsed([MODAL, "deploy", WEB], tmp_path) == 0
    assert run_rehearsed([MODAL, "volume", "put", "web", WEB, "/copy.py"], tmp_path) == 0
    capfd.readouterr()
    assert run_rehearsed(["trigger", "web", "weekly"], tmp_path) == 0
    assert "the week is over" in capfd.readouterr().out
    assert run_rehearsed([MODAL, "app", "logs", "web"], tmp_path) == 0
    assert "the week is over" in capfd.readouterr().out
    with Rehearsal(tmp_path) as rehearsal:
        url = rehearsal.deployed("web")["functions"]["guarded"]["urls"][""]
        headers = {"Modal-Key": "wk-x", "Modal-Secret": "ws-x"}
        assert httpx.get(url, headers=headers, timeout=60).json() == "in"
    assert run_rehearsed([MODAL, "app", "stop", "web", "--yes"], tmp_path) == 0
    assert run_rehearsed([MODAL, "app", "list"], tmp_path) == 0
    assert "stopped" in capfd.readouterr().out
    assert (tmp_path / "volumes/web/copy.py").exists()
    assert (tmp_path / "plane.json").stat().st_mode & 0o077 == 0
