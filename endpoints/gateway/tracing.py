"""A span for each request, by OpenTelemetry's GenAI conventions, sent where OTEL_EXPORTER_OTLP_ENDPOINT says.

Names are those of semantic-conventions-genai 0.1.0, "Client inference": one span from the request to the end of its
answer, with all tries. No words of a request are in it.
"""

import contextlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuneline.core.environment import read_variable
from tuneline.endpoints.request_log.lines import RequestLine

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Variables of OpenTelemetry's exporter; it reads its others, such as headers, by itself."""
OPERATIONS = {"chat/completions": "chat", "messages": "chat", "responses": "chat", "completions": "text_completion",
              "embeddings": "embeddings"}  # fmt: skip
TRACE_HEADERS = ("traceparent", "tracestate")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""By W3C's Trace Context; what is not written so is not passed on."""
PROMOTED = "tuneline"
"""`gen_ai.provider.name` of promoted models."""


@dataclass(frozen=True)
class RequestSpan:
    """The span of a request that is being answered."""

    headers: Mapping[str, str]
    """What its upstreams are sent, so that their spans are below it."""
    span: Any = None
    """OpenTelemetry's; None where none are sent."""


class Tracing:
    """Sends spans from a thread of its own: a slow or absent collector delays nobody."""

    def __init__(self) -> None:
        self.provider: Any = None
        """OpenTelemetry's; None where no spans are sent."""
        if any(read_variable(name) for name in ENDPOINTS):
            self.provider = _make_provider()

    def begin(self, headers: Mapping[str, str]) -> RequestSpan:
        """Return the span of a request that arrives, within the trace that its `traceparent` names.

        Where no spans are sent, upstreams get the caller's `traceparent` as it is.
        """
        if self.provider is None:
            is_traced = TRACEPARENT.fullmatch(headers.get("traceparent", ""))
            return RequestSpan({name: headers[name] for name in TRACE_HEADERS if name in headers} if is_traced else {})
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator, sent = TraceContextTextMapPropagator(), dict[str, str]()
        tracer = self.provider.get_tracer("tuneline.gateway")
        span = tracer.start_span("request", context=propagator.extract(headers), kind=SpanKind.CLIENT)
        propagator.inject(sent, set_span_in_context(span))
        return RequestSpan(sent, span)

    def record(self, line: RequestLine, body: Mapping[str, Any], request_span: RequestSpan) -> None:
        """Record a request that has ended."""
        span = request_span.span
        if span is None:
            return
        from opentelemetry.trace import Status, StatusCode

        attributes = _attributes(line, body)
        span.update_name(f"{attributes['gen_ai.operation.name']} {line.model}".strip())
        span.set_attributes(attributes)
        if "error.type" in attributes:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def agent_span(
        self, agent: str, conversation: str, headers: Mapping[str, str]
    ) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which an agent's steps are below one span, within the caller's trace."""
        if self.provider is None:
            return contextlib.nullcontext()
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": agent}
        context: contextlib.AbstractContextManager[Any] = self.provider.get_tracer(
            "tuneline.assistant"
        ).start_as_current_span(
            f"invoke_agent {agent}",
            context=TraceContextTextMapPropagator().extract(headers),
            attributes=attributes | {"gen_ai.conversation.id": conversation},
        )
        return context

    def close(self) -> None:
        """Send what was not sent yet, within seconds."""
        if self.provider is not None:
            self.provider.shutdown()


def _make_provider() -> Any:
    """Return what sends spans, or None if its packages are missing."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.error("no spans are sent: pip install opentelemetry-exporter-otlp-proto-http")
        return None
    service = read_variable("OTEL_SERVICE_NAME", "tuneline-gateway")
    provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=5)))
    return provider


def _attributes(line: RequestLine, body: Mapping[str, Any]) -> dict[str, Any]:
    kind, _, _ = line.target.partition(":")
    attributes = {
        "gen_ai.operation.name": OPERATIONS.get(line.api, "chat"),
        "gen_ai.provider.name": kind if ":" in line.target else PROMOTED,
        "gen_ai.request.model": line.model,
        "gen_ai.request.stream": bool(body.get("stream")),
        "gen_ai.request.max_tokens": body.get("max_tokens") or body.get("max_completion_tokens"),
        "gen_ai.request.temperature": body.get("temperature"),
        "gen_ai.response.model": line.answered_by or None,
        "gen_ai.response.time_to_first_chunk": line.first_token_s if body.get("stream") else None,
        "gen_ai.usage.input_tokens": line.prompt_tokens or None,
        "gen_ai.usage.output_tokens": line.completion_tokens or None,
        "gen_ai.conversation.id": (body.get("metadata") or {}).get("gen_ai.conversation.id"),
        "error.type": None if line.outcome in ("ok", "left") else str(line.status or line.outcome),
        "tuneline.request.id": line.id,
        "tuneline.task": line.task or None,
        "tuneline.assigned": line.assigned,
        "tuneline.served": line.served or None,
        "tuneline.step": line.step,
        "tuneline.usd": line.usd,
        "tuneline.prompts": [f"{label}={digest}" for label, digest in (line.prompts or {}).items()] or None,
    }
    return {name: value for name, value in attributes.items() if isinstance(value, str | bool | int | float | list)}
