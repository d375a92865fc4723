"""An evaluation that is killed at any moment, and started again, repeats at most the requests in flight."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tuneline.core.paths import ROOT
from tuneline.stages.evaluate.answers import CONCURRENCY, read_answers

ITEMS, TURNS = 24, 2
ASK = """
import asyncio, sys
from pathlib import Path
from tuneline.configs.evaluation import Suite
from tuneline.stages.evaluate.clients.suite_runner import ask_all
from tuneline.stages.evaluate.clients.openai_client import connect_engine
from tuneline.stages.evaluate.clients.target_engines import Engine
from tuneline.stages.evaluate.suites.suite_items import make_items

items = [{"ask": f"number {n}", "tools": False, "then": [{"ask": f"and again {n}", "tools": False}]} for n in range(24)]
suite = Suite.model_validate({"name": "a", "items": items})

async def main():
    async with connect_engine(Engine(sys.argv[1], "m"), "", None) as ask:
        await ask_all(make_items(suite), ask, Path(sys.argv[2]))

asyncio.run(main())
"""


class Counting(ThreadingHTTPServer):
    """Speaks as much of the OpenAI API as is asked, slowly, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.asked: list[str] = []


class _Answers(BaseHTTPRequestHandler):
    server: Counting
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(json.dumps(request["messages"]))
        time.sleep(0.04)
        message = {"role": "assistant", "content": f"I heard {request['messages'][-1]['content']}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
        body = json.dumps(
            {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
        )
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Counting:
    found = Counting()
    threading.Thread(target=found.serve_forever, daemon=True).start()
    return found


def test_kill_9_repeats_at_most_the_requests_in_flight_and_a_finished_one_asks_nothing(
    server: Counting, tmp_path: Path
) -> None:
    file = tmp_path / "answers.jsonl"
    command = [sys.executable, "-c", ASK, f"http://127.0.0.1:{server.server_port}/v1", str(file)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    kills = 0
    for wanted in (8, 24):
        victim = subprocess.Popen(command, env=environment, cwd=tmp_path)
        while len(server.asked) < wanted and victim.poll() is None:
            time.sleep(0.005)
        kills += victim.poll() is None
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    time.sleep(0.2)  # what it had sent still arrives
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    times = Counter(server.asked)
    assert kills == 2 and len(times) == ITEMS * TURNS
    assert len(server.asked) - len(times) <= kills * CONCURRENCY
    answers = read_answers(file)
    assert len(answers) == ITEMS * TURNS
    told = [one for one in times if "and again 7" in one]
    assert "I heard number 7" in told[0], "a later turn follows the model's own answer, killed or not"
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    assert len(server.asked) == sum(times.values()), "a second run asks nothing"
    whole = {"prompt", "text", "tokens", "prompt_tokens", "latency_s", "name_correct"}
    assert all(whole <= json.loads(line).keys() for line in file.read_text().splitlines())
