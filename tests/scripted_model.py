"""A model by script behind OpenAI's chat API, over HTTP: what it answers is a function of what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Request = dict[str, Any]
Calls = list[tuple[str, Any]]
"""(wire name, arguments: an object, or the text that a model wrote instead)."""
Script = Callable[[Request], str | Calls]


@dataclass
class ScriptedModel:
    """A server at `url`; `requests` is what it was asked."""

    url: str
    requests: list[Request] = field(default_factory=list)
    refuses: Callable[[Request], str | None] = lambda request: None
    """Returns why a request is answered 400, or None."""


@contextmanager
def serve_script(script: Script) -> Iterator[ScriptedModel]:
    """Yield a server that answers by `script`, streamed if that is asked."""
    model = ScriptedModel("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            model.requests.append(request)
            if reason := model.refuses(request):
                self.send(400, json.dumps({"error": {"message": reason}}).encode(), "application/json")
                return
            answer = script(request)
            if request.get("stream"):
                lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in to_chunks(answer)]
                content, kind = "".join([*lines, "data: [DONE]\n\n"]).encode(), "text/event-stream"
            else:
                content, kind = json.dumps(to_completion(answer)).encode(), "application/json"
            self.send(200, content, kind)

        def send(self, status: int, content: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    model.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def to_message(answer: str | Calls) -> dict[str, Any]:
    if isinstance(answer, str):
        return {"role": "assistant", "content": answer}
    calls = [
        {
            "id": f"c{number}",
            "index": number,
            "type": "function",
            "function": {
                "name": name,
                "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
            },
        }
        for number, (name, arguments) in enumerate(answer)
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def to_completion(answer: str | Calls) -> dict[str, Any]:
    finish = "stop" if isinstance(answer, str) else "tool_calls"
    choice = {"index": 0, "message": to_message(answer), "finish_reason": finish}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}


def to_chunks(answer: str | Calls) -> Iterator[dict[str, Any]]:
    base = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    message = to_message(answer)
    pieces = [{"content": word + " "} for word in answer.split(" ")] if isinstance(answer, str) else [message]
    for piece in pieces:
        yield base | {"choices": [{"index": 0, "delta": piece, "finish_reason": None}]}
    finish = "stop" if isinstance(answer, str) else "tool_calls"
    yield base | {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
    yield base | {"choices": [], "usage": USAGE}


def last_text(request: Request) -> str:
    """Return the text of the last message."""
    return str(request["messages"][-1]["content"])


def results(request: Request) -> list[str]:
    """Return the results since the last user message."""
    messages = request["messages"]
    start = max(n for n, message in enumerate(messages) if message["role"] == "user")
    return [message["content"] for message in messages[start:] if message["role"] == "tool"]
