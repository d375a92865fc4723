"""Local peers of hosted providers, each with the bodies that its published API refuses a key and a rate with.

One server plays all of them: `URL/NAME/v1`. The model's name says what happens: `busy` is answered 429 at first,
`broken` breaks off in a stream, `lost` sends an error in a stream, `page` is a page of HTML, `whole-call` sends a tool
call without its index; any other name is why the answer ends.
"""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "the-right-key-0123456789"
WRONG_KEY = "a-wrong-key-0123456789"
RETRY_AFTER_S = 1


def error(message: str, kind: str, code: Any = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code, **more}}


REFUSED: dict[str, tuple[int, Any]] = {
    # platform.openai.com/docs/guides/error-codes; the message repeats a part of the key
    "openai": (401, error(f"Incorrect API key provided: {WRONG_KEY}.", "invalid_request_error", "invalid_api_key")),
    # console.groq.com/docs/errors
    "groq": (401, error("Invalid API Key", "invalid_request_error", "invalid_api_key")),
    # docs.together.ai/docs/error-codes
    "together": (401, error("Invalid API key provided.", "invalid_request_error", "invalid_api_key")),
    # docs.fireworks.ai/guides/inference-error-codes
    "fireworks": (403, {"error": {"object": "error", "type": "FORBIDDEN", "message": "Authentication failed"}}),
    # docs.claude.com/en/api/errors
    "anthropic": (401, {"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}),
    # docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html
    "bedrock": (403, {"Message": "The security token included in the request is invalid."}),
    # docs.runpod.io/serverless/endpoints: no body
    "runpod": (401, None),
    # vLLM's own middleware, and llama-server's README, "--api-key"
    "vllm": (401, {"error": "Unauthorized"}),
    "llama.cpp": (401, {"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}}),
}
BUSY: dict[str, Any] = {
    "groq": error("Rate limit reached for model `busy`.", "tokens", "rate_limit_exceeded"),
    "anthropic": {"type": "error", "error": {"type": "rate_limit_error", "message": "Too many tokens a minute."}},
    "bedrock": {"message": "Too many requests, please wait before trying again."},
}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
CALL = {"id": "c1", "type": "function", "function": {"name": "a__b", "arguments": '{"x": 1}'}}


@dataclass
class Peers:
    """The server; `asked` are the times of requests by provider and model."""

    url: str = ""
    asked: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def url_of(self, provider: str) -> str:
        return f"{self.url}/{provider}/v1"


@contextmanager
def serve_peers() -> Iterator[Peers]:
    """Yield the server of all peers."""
    peers = Peers()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            provider, model = self.path.split("/")[1], request["model"]
            peers.asked[provider, model].append(time.monotonic())
            if self.headers["Authorization"] != f"Bearer {KEY}":
                self.send(*REFUSED[provider])
            elif model == "busy" and len(peers.asked[provider, model]) == 1:
                self.send(429, BUSY.get(provider, error("Too many requests", "rate_limit")), RETRY_AFTER_S)
            elif model == "page":
                self.send(200, "<html>It works!</html>")
            elif request.get("stream"):
                self.send(200, list(to_chunks(model)))
            else:
                self.send(200, to_completion(model))

        def send(self, status: int, body: Any, retry_after_s: int | None = None) -> None:
            is_page, is_stream = isinstance(body, str), isinstance(body, list)
            content = "".join(body) if is_page or is_stream else "" if body is None else json.dumps(body)
            kind = "text/html" if is_page else "text/event-stream" if is_stream else "application/json"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if retry_after_s is not None:
                self.send_header("Retry-After", str(retry_after_s))
            if not is_stream:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    peers.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield peers
    finally:
        server.shutdown()
        server.server_close()


def to_completion(model: str) -> dict[str, Any]:
    reason = None if model == "none" else "stop" if model == "busy" else model
    choice = {"index": 0, "message": {"role": "assistant", "content": "well"}, "finish_reason": reason}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": USAGE}


def to_chunks(model: str) -> Iterator[str]:
    def chunk(delta: Any, finish: str | None = None) -> str:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        value = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": choices}
        return f"data: {json.dumps(value)}\n\n"

    yield chunk({"role": "assistant", "content": "we"})
    if model == "broken":
        return
    if model == "lost":
        yield f"data: {json.dumps(error('the engine stopped', 'server_error'))}\n\n"
        return
    if model == "whole-call":
        yield chunk({"tool_calls": [CALL]})
        yield chunk({"tool_calls": [{**CALL, "id": "c2"}]})
    yield chunk({"content": "ll"})
    yield chunk(None, "tool_calls" if model == "whole-call" else "stop" if model == "busy" else model)
    last = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": None, "usage": USAGE}
    yield f"data: {json.dumps(last)}\n\n"
    yield "data: [DONE]\n\n"
