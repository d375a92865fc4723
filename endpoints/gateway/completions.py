"""One request from a caller to its answer: key, body, plan, targets, stream, log line."""

import asyncio
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from tuneline.configs.gateway import Gateway
from tuneline.endpoints.gateway.admission import Admission
from tuneline.endpoints.gateway.answer_checks import AnswerText, calls_are_valid
from tuneline.endpoints.gateway.api_errors import ApiError
from tuneline.endpoints.gateway.dialects import DIALECTS, ChatDialect, Usage, join_usage
from tuneline.endpoints.gateway.event_stream import StreamEvent
from tuneline.endpoints.gateway.failures import Interrupted
from tuneline.endpoints.gateway.forwarding import Asked, Forwarder
from tuneline.endpoints.gateway.http_messages import (
    EVENTS,
    JSON,
    CallerLeft,
    Receive,
    Sender,
    read_body,
    unless_left,
)
from tuneline.endpoints.gateway.key_index import Key
from tuneline.endpoints.gateway.named_prompts import apply_prompts
from tuneline.endpoints.gateway.request_body import Body, check_fields, parse_body, wants_usage
from tuneline.endpoints.gateway.routing import Assigner, Plan, make_plan
from tuneline.endpoints.gateway.token_estimates import estimate_prompt_tokens, estimate_tokens
from tuneline.endpoints.gateway.tracing import RequestSpan
from tuneline.endpoints.gateway.upstream import Answer, Stream
from tuneline.endpoints.request_log.lines import RequestLine

TIMEOUT_HEADER = "x-tuneline-timeout-s"
Finished = Callable[["Exchange"], None]


class Completions:
    """Answers requests at the paths of `DIALECTS`."""

    def __init__(
        self,
        settings: Callable[[], Gateway],
        forwarder: Forwarder,
        assigner: Assigner,
        admit: Callable[[Key, Plan, Body], Any],
        finished: Finished,
        recognize: Callable[[str], str],
        begin_span: Callable[[dict[str, str]], RequestSpan],
    ) -> None:
        """`admit` raises ApiError for what a key may not; `finished` takes an exchange before its last byte is sent.

        `recognize` returns the task of a text.
        """
        self._recognize, self._begin_span = recognize, begin_span
        self._settings, self._forwarder, self._assigner = settings, forwarder, assigner
        self._admit, self._finished = admit, finished
        self.admission = Admission(settings().limits)

    async def answer(self, api: str, key: Key, headers: dict[str, str], receive: Receive, sender: Sender) -> None:
        """Answer one request.

        Raises:
            ApiError: before anything was sent. CallerLeft: nobody is there to be answered.
        """
        line = RequestLine(sender.request_id, api=api, key=key.owner)
        exchange = Exchange(line, time.monotonic(), sender, self._begin_span(headers))
        try:
            async with self.admission.place():
                limits = self._settings().limits
                body = parse_body(api, await read_body(receive, headers, limits), limits)
                body = exchange.body = apply_prompts(api, headers, body, line)
                plan = exchange.plan = self._plan(api, key, headers, body, sender)
                await self._admit(key, plan, body)
                deadline = time.monotonic() + _limit_s(headers, limits.request_s)
                await unless_left(self._ask(exchange, api, plan, body, deadline), receive)
        except ApiError as error:
            exchange.line.outcome = "refused" if error.status < 500 and not exchange.asked.failures else "error"
            exchange.line.status = error.status
            raise
        except (CallerLeft, asyncio.CancelledError):
            exchange.line.outcome = "left"
            raise
        except Exception:  # a bug: no answer that counts as a good one
            exchange.line.outcome, exchange.line.status = "error", 500
            raise
        finally:
            self._finish(exchange)

    def _plan(self, api: str, key: Key, headers: dict[str, str], body: Body, sender: Sender) -> Plan:
        unit, settings = key.owner or sender.request_id, self._settings()
        if body["model"] not in settings.models:
            self._forwarder.check_promoted(body["model"])
        plan = make_plan(settings, api, body, headers, unit, self._assigner, self._recognize)
        check_fields(api, body, [choice.target for choice in plan.choices])
        return plan

    async def _ask(self, exchange: "Exchange", api: str, plan: Plan, body: Body, deadline: float) -> None:
        dialect = DIALECTS[api]
        async with self._forwarder.ask(plan, api, body, dialect, deadline, exchange.asked) as answer:
            exchange.line.first_token_s = round(time.monotonic() - exchange.started, 4)
            if isinstance(answer, Answer):
                exchange.note(answer.usage, AnswerText.of_body(api, answer.body))
                self._finish(exchange)
                await exchange.sender.whole(answer.status, answer.body, JSON)
            else:
                await self._stream(exchange, api, answer, body, dialect)

    async def _stream(self, exchange: "Exchange", api: str, stream: Stream, body: Body, dialect: ChatDialect) -> None:
        """Send a stream on, without the usage that nobody asked for, to its end or to an error event."""
        text, sender, with_usage = AnswerText(api), exchange.sender, wants_usage(body)
        exchange.heard = text
        await sender.begin(200, EVENTS, [(b"cache-control", b"no-cache")])
        await sender.piece(_forwarded(stream.first, exchange, text, dialect, with_usage))
        end = dialect.sentinel
        try:
            if stream.rest:
                async for events in stream.rest:
                    if piece := _forwarded(events, exchange, text, dialect, with_usage):
                        await sender.piece(piece)
        except Interrupted as interrupted:
            exchange.line.outcome = "interrupted"
            exchange.line.failures.append(f"{exchange.asked.choice and exchange.asked.choice.target.label}: "
                                          f"{interrupted.kind}")  # fmt: skip
            end = dialect.error_event(ApiError(502, f"{interrupted.message}; ask again"), sender.request_id)
        exchange.note(exchange.usage, text)
        self._finish(exchange)
        await sender.end(end)

    def _finish(self, exchange: "Exchange") -> None:
        """Write the request's line, once: before its last byte, so that no answered request is missing in the log."""
        if not exchange.finished:
            exchange.finished = True
            exchange.complete()
            self._finished(exchange)


class Exchange:
    """What is known of one request."""

    def __init__(self, line: RequestLine, started: float, sender: Sender, span: RequestSpan) -> None:
        self.line, self.started, self.sender, self.span = line, started, sender, span
        self.plan: Plan | None = None
        self.body: Body = {}
        self.asked = Asked(trace_headers=span.headers)
        self.usage: Usage | None = None
        self.text: AnswerText | None = None
        """What was answered; None if nothing was."""
        self.heard: AnswerText | None = None
        """What the caller was sent of it so far."""
        self.token_events = 0
        self.finished = False

    def note(self, usage: Usage | None, text: AnswerText) -> None:
        """Note tokens, the model that answered, and whether its calls are valid."""
        self.usage, self.text, self.heard = usage, text, text
        self.line.answered_by, self.line.valid = text.model, calls_are_valid(self.body, text)

    def complete(self) -> None:
        line, plan, choice = self.line, self.plan, self.asked.choice
        line.latency_s = round(time.monotonic() - self.started, 4)
        line.status = line.status or self.sender.status or (200 if line.outcome == "ok" else 0)
        line.failures += [f"{failed.target.label}: {failure.kind}" for failed, failure in self.asked.failures]
        if plan:
            line.model, line.task, line.unit = plan.model, plan.task, hash_unit(plan.unit)
            line.assigned, line.step, line.move = plan.assignment.arm, plan.assignment.step, plan.assignment.move
        if choice:
            line.served = choice.arm
        if asked := choice or (self.asked.tried if line.outcome == "left" else None):
            self._count_tokens()
            line.target, line.usd = asked.target.label, price(line, asked.target)

    def _count_tokens(self) -> None:
        """Count what the upstream did, or else about what it did: nobody has a budget longer by leaving early."""
        line, usage = self.line, self.usage
        if usage is None or line.outcome in ("left", "interrupted"):
            written = max(self.token_events, estimate_tokens(self.heard.characters if self.heard else 0))
            usage = join_usage(Usage(estimate_prompt_tokens(self.body), written), usage) or Usage()
            line.estimated = True
        line.prompt_tokens, line.completion_tokens = usage.prompt, usage.completion


def price(line: RequestLine, target: Any) -> float:
    """Return what a request cost, in USD."""
    usd = (
        line.prompt_tokens * target.prompt_usd_per_million + line.completion_tokens * target.completion_usd_per_million
    )
    return float(round(usd / 1e6, 8))


def hash_unit(unit: str) -> str:
    """Return a unit's name in the log."""
    return blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _forwarded(
    events: list[StreamEvent], exchange: Exchange, text: AnswerText, dialect: ChatDialect, with_usage: bool
) -> bytes:
    """Return the bytes of events for the caller: its sentinel is sent at the end, and usage only if it asked."""
    pieces = []
    for event in events:
        if event.is_done:
            continue
        if event.data is not None:
            exchange.usage = join_usage(exchange.usage, dialect.usage(event.data))
            text.add_event(event.data)
            exchange.token_events += dialect.has_token(event.data)
            if not with_usage and dialect.is_usage_only(event.data):
                continue
        pieces.append(event.raw)
    return b"".join(pieces)


def _limit_s(headers: dict[str, str], most: float) -> float:
    """Return the seconds that a request may take: the caller's limit, if it is shorter than ours."""
    try:
        return min(most, max(0.1, float(headers.get(TIMEOUT_HEADER, most))))
    except ValueError:
        raise ApiError(400, f"{TIMEOUT_HEADER}: must be a number of seconds", param=TIMEOUT_HEADER) from None
