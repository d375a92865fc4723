"""`python -m benchmarks.common.fake_model PORT NAME`: an OpenAI-compatible server that answers at once.

It says its name, what it was asked, and TOKENS words. The model `paced` brings a word every 20 ms.
"""

import asyncio
import json
import sys
from typing import Any

import uvicorn

TOKENS = 32
PACE_S = 0.02


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Answer a chat (ASGI)."""
    if scope["type"] != "http":
        return
    body = json.loads(await _read(receive))
    words = [f"{sys.argv[2]} ", f"{body['messages'][-1]['content']} ", *["word "] * TOKENS]
    streamed = body.get("stream")
    kind = b"text/event-stream" if streamed else b"application/json"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    for piece in _events(words) if streamed else [_whole(words)]:
        if body["model"] == "paced":
            await asyncio.sleep(PACE_S)
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _read(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def _events(words: list[str]) -> list[bytes]:
    return [*(_event({"content": word}) for word in words), _event({}, "stop"), b"data: [DONE]\n\n"]


def _event(delta: dict[str, str], reason: str | None = None) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": sys.argv[2], "choices": choices}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _whole(words: list[str]) -> bytes:
    message = {"role": "assistant", "content": "".join(words)}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 9, "completion_tokens": TOKENS, "total_tokens": 9 + TOKENS}
    return json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": sys.argv[2],
                       "choices": choices, "usage": usage}).encode()  # fmt: skip


if __name__ == "__main__":
    uvicorn.run(answer, port=int(sys.argv[1]), log_level="error", loop="uvloop", http="httptools")
