"""`tuneline mcp` with the official client, over stdio and HTTP: handlers and `ask`; dangerous ones are not offered."""

import asyncio
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.assistant_runs import HANDLERS
from tests.conftest import environment, tuneline
from tests.scripted_model import results, serve_script
from tests.unit.test_assistant_docs import wait_for

SEND = ("money__send", {"to": "Bob [bold]", "amount": 5})


def script(request: Any) -> Any:
    return "; ".join(results(request)) if results(request) else [("rates__get", {"currency": "IDR"}), SEND]


async def use(client: Any) -> str:
    """Use a server as its clients do; return the id of the call that waits."""
    async with client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert "rates.get" in tools and "ask" in tools and "money.send" not in tools
        assert tools["rates.get"].input_schema["required"] == ["currency"]
        rate = await client.call_tool("rates.get", {"currency": "EUR"})
        assert not rate.is_error and "16250" in rate.content[0].text
        for name, arguments in (("rates.get", {}), ("money.send", SEND[1]), ("bad.raise", {}), ("ask", {})):
            assert (await client.call_tool(name, arguments)).is_error
        asked = await client.call_tool("ask", {"question": "rate, then send"})
        [waiting] = re.findall(r"--confirm (\S+)`", asked.content[0].text)
    return str(waiting)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "mcp_handlers.py").write_text(HANDLERS)
    return ["--handlers", str(tmp_path / "mcp_handlers.py"), "--folder", str(tmp_path / "assistant")]


def test_clients_over_stdio_use_handlers_and_a_person_confirms(tmp_path: Path, words: list[str]) -> None:
    from mcp import Client, StdioServerParameters

    with serve_script(script) as model:
        words += ["--url", model.url]
        command = ["-m", "tuneline", "mcp", *words]
        server = StdioServerParameters(command=sys.executable, args=command, env=environment(tmp_path))
        waiting = asyncio.run(use(Client(server)))
        command = [sys.executable, "-m", "tuneline", "assistant", *words, "--confirm", waiting]
        done = subprocess.run(
            command, input="y\n", env=environment(tmp_path), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 and "sent 5 to Bob" in done.stdout, done.stderr
        assert 'run   money.send({"to": "Bob [bold]", "amount": 5})? (y/N)' in done.stdout
        assert (
            "no pending call of this key"
            in tuneline(tmp_path, "assistant", *words, "--confirm", waiting, code=2).stderr
        )


def test_clients_over_http(tmp_path: Path, words: list[str]) -> None:
    from mcp import Client

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    with serve_script(script) as model:
        command = [sys.executable, "-m", "tuneline", "mcp", *words, "--url", model.url, "--port", str(port)]
        with subprocess.Popen(command, env=os.environ | environment(tmp_path)) as server:
            try:
                wait_for(port, server)
                assert asyncio.run(use(Client(f"http://127.0.0.1:{port}/mcp")))
            finally:
                server.terminate()
