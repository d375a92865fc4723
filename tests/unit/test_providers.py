"""The provider interface, against a real HTTP server that speaks OpenAI's chat API."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.tool_call_text import render_tool_calls
from tuneline.core.errors import BadRequest, NotFound, StageFailed
from tuneline.engines.chat_messages import Answer, Delta
from tuneline.engines.providers import PROVIDERS, Provider, find_provider
from tuneline.engines.tool_calls import ToolCall

SECRET = "sk-very-secret-123"
ASKED = [{"role": "user", "content": "tell Ana hi"}]
TOOLS = [{"type": "function", "function": {"name": "whatsapp__send", "parameters": {"type": "object"}}}]
CALL = ToolCall("whatsapp.send", {"to": "Ana", "message": 'say "hi"; ünï'})


def completion(**message: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": None, **message}}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def wire_call(arguments: str | None = None) -> dict[str, Any]:
    text = json.dumps(CALL.arguments) if arguments is None else arguments
    return {"id": "c1", "type": "function", "function": {"name": "whatsapp__send", "arguments": text}}


@dataclass
class Server:
    """Answers are (status, JSON body) or a list of streamed chunks, given in order."""

    url: str = ""
    answers: list[Any] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def provider(self, **extra: Any) -> Provider:
        return Provider("test", self.url, **extra)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            state.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            state.keys.append(self.headers["Authorization"])
            answer = state.answers.pop(0)
            status, body = (200, answer) if isinstance(answer, list) else answer
            self.send_response(status)
            self.send_header("retry-after-ms", "1")
            self.send_header("Content-Type", "text/event-stream" if isinstance(body, list) else "application/json")
            self.send_header("Connection", "close")
            self.end_headers()
            if isinstance(body, list):
                lines = [line if isinstance(line, str) else f"data: {json.dumps(line)}\n\n" for line in body]
                self.wfile.write("".join(lines).encode())
            else:
                self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{httpd.server_port}/v1"
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield state
    httpd.shutdown()
    httpd.server_close()


def ask(who: Provider, messages: Any = ASKED, tools: Any = None, key: str | None = None, **sampling: Any) -> Answer:
    async def asking() -> Answer:
        async with who.connect("m", key=key) as chat:
            return await chat.ask(messages, tools, **sampling)

    return asyncio.run(asking())


def stream(who: Provider, tools: Any = None) -> list[Delta | Answer]:
    async def streaming() -> list[Delta | Answer]:
        async with who.connect("m") as chat:
            return [piece async for piece in chat.stream(ASKED, tools)]

    return asyncio.run(streaming())


def test_an_answer_has_text_counts_and_what_was_sampled(server: Server) -> None:
    server.answers = [(200, completion(content="hello"))]
    answer = ask(server.provider(), temperature=0, max_tokens=5)
    assert (answer.text, answer.finish_reason, answer.tool_calls) == ("hello", "stop", ())
    assert (answer.prompt_tokens, answer.completion_tokens) == (7, 3) and answer.latency_s > 0
    assert server.requests[0] == {"model": "m", "messages": ASKED, "temperature": 0, "max_tokens": 5}


def test_tool_calls_come_back_under_dotted_names(server: Server) -> None:
    server.answers = [(200, completion(tool_calls=[wire_call(), {**wire_call(), "id": "c2"}]))]
    answer = ask(server.provider(), tools=TOOLS)
    assert answer.tool_calls == (CALL, CALL)
    assert answer.raw_tool_calls[0]["function"]["name"] == "whatsapp__send"
    assert server.requests[0]["tools"] == TOOLS


def test_calls_left_in_the_text_are_found_but_only_if_tools_were_offered(server: Server) -> None:
    server.answers = [(200, completion(content=render_tool_calls([CALL])))] * 2
    assert ask(server.provider(), tools=TOOLS).tool_calls == (CALL,)
    assert ask(server.provider()).tool_calls == ()


@pytest.mark.parametrize("arguments", ['{"to": "An', "[1]", "null", ""])
def test_a_malformed_call_is_no_call_and_stays_visible(server: Server, arguments: str) -> None:
    server.answers = [(200, completion(tool_calls=[wire_call(arguments)]))]
    answer = ask(server.provider(), tools=TOOLS)
    assert answer.tool_calls == () and answer.raw_tool_calls[0]["function"]["arguments"] == arguments


def test_a_dataset_row_is_sent_as_the_api_wants_it(server: Server) -> None:
    row = [
        {"role": "assistant", "content": "", "tool_calls": [CALL.openai(), CALL.openai()]},
        {"role": "tool", "content": "one"},
        {"role": "tool", "content": "two"},
    ]
    before = json.dumps(row)
    server.answers = [(200, completion(content="done"))]
    ask(server.provider(), row)
    assistant, one, two = server.requests[0]["messages"]
    assert [json.loads(c["function"]["arguments"]) for c in assistant["tool_calls"]] == [CALL.arguments] * 2
    first, second = (c["id"] for c in assistant["tool_calls"])
    assert (one["tool_call_id"], two["tool_call_id"]) == (first, second) and first != second
    assert json.dumps(row) == before, "the caller's row was changed"


def test_a_stream_yields_text_as_it_comes_then_the_answer(server: Server) -> None:
    usage = {**chunk({}), "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}
    chunks = [chunk({"content": "he"}), chunk({"content": "llo"}), chunk({}, "stop"), usage, "data: [DONE]\n\n"]
    server.answers = [chunks]
    *deltas, answer = stream(server.provider())
    assert [d.text for d in deltas if isinstance(d, Delta)] == ["he", "llo"]
    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish_reason, answer.prompt_tokens, answer.completion_tokens) == (
        "hello",
        "stop",
        7,
        2,
    )


def test_streamed_parallel_calls_are_put_together(server: Server) -> None:
    text = json.dumps(CALL.arguments)

    def piece(index: int, **function: str) -> dict[str, Any]:
        return chunk({"tool_calls": [{"index": index, "id": f"c{index}", "type": "function", "function": function}]})

    chunks = [
        piece(0, name="whatsapp__send", arguments=""),
        piece(1, name="whatsapp__send", arguments=text[:3]),
        piece(0, arguments=text[:9]),
        piece(1, arguments=text[3:]),
        piece(0, arguments=text[9:]),
        chunk({}, "tool_calls"),
        "data: [DONE]\n\n",
    ]
    server.answers = [chunks]
    *deltas, answer = stream(server.provider(), TOOLS)
    assert isinstance(answer, Answer) and answer.tool_calls == (CALL, CALL)
    assert "".join(d.arguments for d in deltas if isinstance(d, Delta) and d.index == 1) == text


def test_a_stream_that_breaks_off_is_an_error_not_a_short_answer(server: Server) -> None:
    server.answers = [[chunk({"content": "he"})]]
    with pytest.raises(StageFailed, match="broke off"):
        stream(server.provider())


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    server.answers = [(status, {"error": {"message": "busy"}})] * 2 + [(200, completion(content="here"))]
    assert ask(server.provider()).text == "here"
    assert len(server.requests) == 3


def test_a_refused_key_is_named_but_never_shown(server: Server) -> None:
    server.answers = [(401, {"error": {"message": f"bad key {SECRET}"}}), (400, {"error": {"message": f"no {SECRET}"}})]
    for _ in range(2):
        with pytest.raises(BadRequest) as caught:
            ask(server.provider(key_variable="MY_KEY"), key=SECRET)
        assert SECRET not in str(caught.value) and caught.value.exit_code == 2
    assert server.keys == [f"Bearer {SECRET}"] * 2


def test_a_missing_key_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    with pytest.raises(BadRequest, match="export GROQ_API_KEY="):
        find_provider("groq").connect("m")


def test_another_providers_key_is_never_sent_to_a_local_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    server.answers = [(200, completion(content="x"))]
    ask(server.provider())
    assert SECRET not in server.keys[0]


def test_keys_are_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", SECRET)
    chat = find_provider("groq").connect("m")
    assert SECRET not in repr(chat) + repr(chat.provider) + repr(vars(chat)) + repr(PROVIDERS)


def test_nothing_listens_and_no_such_model_say_what_to_do(server: Server) -> None:
    server.answers = [(404, {"error": {"message": "model m not found"}})]
    with pytest.raises(NotFound, match="/models"):
        ask(server.provider())

    async def nobody() -> None:
        async with Provider("local", "http://127.0.0.1:9/v1").connect("m", retries=0) as chat:
            await chat.ask(ASKED)

    with pytest.raises(StageFailed, match="tuneline serve RUN"):
        asyncio.run(nobody())


def test_providers_are_found_by_name_or_url() -> None:
    assert {"local", "vllm", "ollama", "groq", "together", "fireworks", "openai"} <= set(PROVIDERS)
    assert find_provider("https://host/v1/", "K") == Provider("https://host/v1/", "https://host/v1", "K")
    with pytest.raises(NotFound, match="groq"):
        find_provider("grok")


def test_importing_providers_does_not_import_openai() -> None:
    code = "import sys, tuneline.engines.providers; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_status_behind_an_error_can_be_told(server: Server) -> None:
    # `evaluate` counts a 500 (a text the server could not read as its template promises) as a wrong answer.
    server.answers = [(500, {"error": {"message": "cannot parse"}})]

    async def once() -> None:
        async with server.provider().connect("m", retries=0) as chat:
            await chat.ask(ASKED)

    with pytest.raises(StageFailed) as caught:
        asyncio.run(once())
    assert getattr(caught.value.__context__, "status_code", None) == 500
