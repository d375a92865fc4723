"""Spans of requests, as a collector gets them: by the GenAI conventions, in the caller's trace, without words."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.assistant_runs import HANDLERS
from tests.scripted_model import results, serve_script
from tests.unit.misbehaving import MisbehavingUpstream, running, serving, target
from tuneline.endpoints.gateway.assistant_model import AssistantModel
from tuneline.endpoints.gateway.tracing import ENDPOINTS, Tracing
from tuneline.engines.server import free_port

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.contents: list[bytes] = []

    def all_spans(self) -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(content) for content in self.contents]
        return [
            s for r in requests for resource in r.resource_spans for scope in resource.scope_spans for s in scope.spans
        ]

    def spans(self) -> dict[str, Any]:
        """Return the spans of requests by the request's id."""
        return {attributes(span)["tuneline.request.id"]: span for span in self.all_spans()}


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.path == "/v1/traces" and isinstance(self.server, Collector)
        self.server.contents.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TUNELINE_LOGS", str(tmp_path / "logs"))
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    with running(MisbehavingUpstream({})) as upstream:
        models = {"m": {"baseline": target(upstream, "m", response_s=5)}, "gone": {"baseline": {"url": "http://127.0.0.1:9/v1",
                  "model": "x", "retries": 0}}}  # fmt: skip
        (tmp_path / "gateway.yaml").write_text(yaml.safe_dump({"models": models, "tasks": ["pricing"]}))
        yield tmp_path / "gateway.yaml"


def ask(settings: Path) -> list[str]:
    """Ask three times and return the requests' ids."""
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-tuneline-task": "pricing"}
    body = {"messages": [{"role": "user", "content": "a secret word"}], "metadata": {"gen_ai.conversation.id": "c7"}}
    with serving(settings) as (url, _), httpx2.Client(base_url=url, timeout=10) as client:
        answers = [
            client.post("/v1/chat/completions", json=body | more, headers=headers)
            for more in ({"model": "m", "max_tokens": 9}, {"model": "m", "stream": True}, {"model": "gone"})
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 502]
    return [answer.headers["x-request-id"] for answer in answers]


def test_each_request_is_a_span_in_the_callers_trace(
    settings: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    whole, streamed, failed = (collector.spans()[request_id] for request_id in ask(settings))
    for span in (whole, streamed, failed):
        assert (span.trace_id.hex(), span.parent_span_id.hex(), span.kind) == (TRACE, PARENT, 3)
        assert span.end_time_unix_nano >= span.start_time_unix_nano > 0
        assert attributes(span)["gen_ai.conversation.id"] == "c7" and attributes(span)["tuneline.task"] == "pricing"
    assert whole.name == "chat m" and attributes(whole)["gen_ai.usage.output_tokens"] == 60
    assert attributes(whole)["gen_ai.request.max_tokens"] == 9 and "error.type" not in attributes(whole)
    assert attributes(streamed)["gen_ai.response.time_to_first_chunk"] > 0
    assert attributes(failed)["error.type"] == "502" and failed.status.code == 2
    assert b"secret word" not in b"".join(collector.contents)


def test_nobody_waits_for_a_collector_that_is_not_there(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Tracing().provider is None  # off without the variable
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    assert len(ask(settings)) == 3


def test_the_trace_goes_on_at_the_upstream(
    settings: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(MisbehavingUpstream({})) as upstream:
        for endpoint in (None, f"http://127.0.0.1:{collector.server_port}"):
            if endpoint:
                monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            settings.write_text(yaml.safe_dump({"models": {"m": {"baseline": target(upstream, "m")}}}), "utf-8")
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=b"}
            with serving(settings) as (url, _), httpx2.Client(base_url=url, timeout=10) as client:
                body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
                client.post("/v1/chat/completions", json=body, headers=headers)
                client.post("/v1/chat/completions", json=body, headers={"traceparent": "nonsense"})
    passed, none, own, begun = (attempt.headers for attempt in upstream.attempts)
    assert (passed["traceparent"], passed["tracestate"]) == (
        f"00-{TRACE}-{PARENT}-01",
        "a=b",
    )  # where no spans are sent
    assert "traceparent" not in none
    spans = {span.span_id.hex(): span for span in collector.spans().values()}
    for seen in (own, begun):
        _, trace, parent, _ = seen["traceparent"].split("-")
        assert spans[parent].trace_id.hex() == trace
    assert own["traceparent"].split("-")[1] == TRACE and own["tracestate"] == "a=b"


def test_the_assistants_steps_are_spans_of_the_gateway(
    settings: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    (tmp_path / "traced_handlers.py").write_text(HANDLERS)
    port = free_port("127.0.0.1")
    with serve_script(lambda request: "done" if results(request) else [("rates__get", {"currency": "IDR"})]) as model:
        settings.write_text(
            yaml.safe_dump({"models": {"tuned": {"baseline": {"url": model.url, "model": "m"}}}}), "utf-8"
        )
        assistant = AssistantModel(
            [str(tmp_path / "traced_handlers.py")], f"http://127.0.0.1:{port}/v1", "tuned", tmp_path / "a"
        )
        with serving(settings, port=port, assistant=assistant) as (url, _):
            body = {"model": "assistant", "messages": [{"role": "user", "content": "rate?"}]}
            head = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            assert httpx2.post(f"{url}/v1/chat/completions", json=body, headers=head, timeout=20).status_code == 200
    spans = {span.span_id.hex(): span for span in collector.all_spans()}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    above = {
        span.name: spans[span.parent_span_id.hex()].name
        for span in spans.values()
        if span.parent_span_id.hex() != PARENT
    }
    agent = "invoke_agent assistant"
    assert above == {"question": agent, "model": agent, "call": agent, "end": agent, "chat tuned": "model"}
