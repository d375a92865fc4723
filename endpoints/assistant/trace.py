"""What an assistant did, step by step: one JSON line each, and OpenTelemetry spans of a provider, if there is one."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tuneline.core import jsonl
from tuneline.core.errors import NotFound
from tuneline.core.files import write_atomic
from tuneline.core.redaction import redact_texts
from tuneline.engines.own_key import is_own_server

FILE = "trace.jsonl"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Trace:
    """The steps of all conversations of one assistant, in one file."""

    def __init__(self, folder: Path, provider: Any = None) -> None:
        """`provider` is OpenTelemetry's, as the gateway's; None: the process's own, if it has one."""
        self._provider = provider
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / FILE
        self._file.touch(0o600)
        jsonl.end_cut_line(self._file)

    @contextmanager
    def step(self, conversation: str, kind: str, **known: Any) -> Iterator[dict[str, Any]]:
        """Yield the step's record, to which is added what becomes known; it is written when the step ends."""
        record: dict[str, Any] = {"conversation": conversation, "time": time.time(), "kind": kind, **known}
        started, cpu = time.perf_counter(), time.process_time()
        with _span(self._provider, kind, record):
            try:
                yield record
            finally:
                record["ms"] = round((time.perf_counter() - started) * 1000, 1)
                record["cpu_ms"] = round((time.process_time() - cpu) * 1000, 1)
                self._write(record)

    def headers(self, url: str) -> dict[str, str]:
        """Return the headers by which a server of our own joins the current span; none for other servers."""
        if not is_own_server(url):
            return {}
        try:
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError:
            return {}
        headers: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(headers)
        return headers

    def _write(self, record: dict[str, Any]) -> None:
        # Text by text: what is cut out of the line as a whole may take a quote or a bracket of its JSON along.
        jsonl.append(self._file, redact_texts(json.loads(json.dumps(record, default=str))))


def read_trace(folder: Path, conversation: str) -> list[dict[str, Any]]:
    """Return the steps of a conversation, oldest first.

    Raises:
        NotFound: it has none.
    """
    steps = [step for step in jsonl.read(folder / FILE, skip_broken=True) if step.get("conversation") == conversation]
    if not steps or not _ID.fullmatch(conversation):
        raise NotFound(f"conversation {conversation!r}: no trace in {folder / FILE}")
    return steps


def _span(provider: Any, kind: str, record: dict[str, Any]) -> Any:
    """Return a span that is current while the step lasts, with the names of OpenTelemetry's conventions for GenAI."""
    try:
        from opentelemetry import trace
    except ImportError:  # it comes with the extra `assistant`
        return nullcontext()
    operations = {"model": "chat", "summary": "chat", "call": "execute_tool", "question": "invoke_agent"}
    attributes = {"gen_ai.operation.name": operations.get(kind, kind), "gen_ai.conversation.id": record["conversation"]}
    if "tool" in record:
        attributes["gen_ai.tool.name"] = record["tool"]
    if prompts := record.get("prompts"):
        attributes["tuneline.prompts"] = [f"{label}={digest}" for label, digest in prompts.items()]
    return (provider or trace).get_tracer("tuneline.assistant").start_as_current_span(kind, attributes=attributes)


def delete_trace(folder: Path, conversation: str) -> None:
    """Delete the steps of a conversation; nobody may be writing to the file."""
    file = folder / FILE
    lines = [line for line in jsonl.whole_lines(file) if json.loads(line).get("conversation") != conversation]
    if file.exists():
        write_atomic(file, b"".join(lines).decode(), private=True)
