"""Text of others in the commands that show it: no control character of a model, row, name or server is printed."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_terminal import is_safe
from tuneline.core.events import Events
from tuneline.core.paths import ROOT

EVIL = "\x1b]52;c;cm0gLXJmIH4=\x07\x9d0;owned\x9c\r\x1b[2A\u202e"
"""Writes the clipboard, renames the window, goes back two lines, turns the writing direction."""
SHOWN = r"\u001b]52;c;cm0gLXJmIH4=\u0007\u009d0;owned\u009c\u000d\u001b[2A\u202e"


def tuneline(home: Path, *words: str, code: int) -> str:
    """Return what a command printed, after a look that nothing of it is obeyed."""
    roots = {f"TUNELINE_{name}": str(home / name.lower()) for name in ("RUNS", "MODELS", "POLICY")}
    process = subprocess.run(
        [sys.executable, "-m", "tuneline", *words],
        env=os.environ | roots | {"PYTHONPATH": str(ROOT), "COLUMNS": "500"},
        cwd=home,
        capture_output=True,
        check=False,
    )
    out = (process.stdout + process.stderr).decode()
    assert process.returncode == code, out
    assert is_safe(out), repr(out)
    return out


@pytest.fixture
def server() -> Iterator[str]:
    """A model's server whose answers, tool names and errors try what they can."""

    def chunk(**delta: Any) -> str:
        reason = "stop" if not delta else None
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        body = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        return f"data: {json.dumps(body)}\n\n"

    class Model(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
            call = {"index": 0, "id": "1", "type": "function", "function": {"name": f"t{EVIL}", "arguments": "{}"}}
            bodies = {
                "text": "".join(chunk(content=piece) for piece in (*EVIL, EVIL)) + chunk() + "data: [DONE]\n\n",
                "tool": chunk(tool_calls=[call]) + chunk() + "data: [DONE]\n\n",
                "error": json.dumps({"error": {"message": f"no {EVIL}"}}),
            }
            self.send_response(400 if question == "error" else 200)
            self.send_header("Content-Type", "application/json" if question == "error" else "text/event-stream")
            self.end_headers()
            self.wfile.write(bodies[question].encode())

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps({"object": "list", "data": [{"id": f"m{EVIL}", "object": "model"}]}).encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/v1"
        http.shutdown()


def test_a_models_text_tools_and_errors(tmp_path: Path, server: str) -> None:
    assert SHOWN + SHOWN in tuneline(tmp_path, "chat", server, "text", code=0)
    assert f"model t{SHOWN}(" in tuneline(tmp_path, "chat", server, "tool", code=0)
    assert SHOWN.split("\\u0007")[0] in tuneline(tmp_path, "chat", server, "error", code=2)


def test_rows_and_names_of_files(tmp_path: Path) -> None:
    name = f"rows{EVIL}.jsonl".replace("/", " ")
    row = {"messages": [{"role": EVIL, "content": EVIL}, {"role": "assistant", "content": EVIL}], EVIL: EVIL}
    (tmp_path / name).write_text(json.dumps(row) + "\n" + EVIL + "\n")
    assert SHOWN in tuneline(tmp_path, "validate", name, code=2)
    recipe = tmp_path / f"{EVIL}.yaml"
    recipe.write_text(f"base: tiny\ndata: {{sources: [{{path: {json.dumps(name)}}}], {json.dumps(EVIL)}: 1}}\n")
    assert SHOWN in tuneline(tmp_path, "plan", recipe.name, code=2)
    assert SHOWN in tuneline(tmp_path, "plan", f"none{EVIL}.yaml", code=2)
    tuneline(tmp_path, "runs", "show", f"none{EVIL}", code=2)
    tuneline(tmp_path, "runs", "show", "none", EVIL, code=2)


def test_events_are_one_line_each(tmp_path: Path) -> None:
    run = tmp_path / "runs/r"
    events = Events(run, "train")
    events.emit("warning", text=f"{EVIL}\n2026-11-30T10:00:00 evaluate  ended      seconds=1")
    events.emit("sample", step=1, samples=[{"prompt": EVIL, "wanted": EVIL, "got": EVIL}])
    (run / "recipe.json").write_text("{}")
    out = tuneline(tmp_path, "runs", "logs", "r", code=0)
    assert len(out.splitlines()) == 2 and SHOWN in out
