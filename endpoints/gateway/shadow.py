"""Shadow requests: the candidate is asked too, after the caller has its answer. None of it reaches the caller."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime

import orjson

from tuneline.configs.gateway import Policy
from tuneline.endpoints.gateway.answer_checks import AnswerText, calls_are_valid
from tuneline.endpoints.gateway.api_errors import ApiError
from tuneline.endpoints.gateway.completions import Exchange, hash_unit, price
from tuneline.endpoints.gateway.dialects import DIALECTS, Usage, join_usage
from tuneline.endpoints.gateway.failures import Interrupted
from tuneline.endpoints.gateway.forwarding import Asked, Forwarder
from tuneline.endpoints.gateway.routing import Choice, Plan
from tuneline.endpoints.gateway.token_estimates import estimate_prompt_tokens, estimate_tokens
from tuneline.endpoints.gateway.upstream import Answer, Stream
from tuneline.endpoints.request_log.lines import RequestLine

log = logging.getLogger(__name__)


class Shadows:
    """Asks candidates what baselines were asked, few at a time, within a budget a day."""

    def __init__(self, forwarder: Forwarder, write: Callable[[RequestLine], None]) -> None:
        self._forwarder, self._write = forwarder, write
        self._active: dict[tuple[str, str], int] = {}
        self._spent: dict[tuple[str, str], tuple[str, float]] = {}
        """Model and task → a day and what shadow requests cost on it."""
        self.left_out = 0
        """Requests that were not repeated: too many at a time, or the budget was spent."""

    def takes(self, plan: Plan, policy: Policy) -> bool:
        """Return whether there is place and money for another; the caller then awaits `ask`."""
        place = plan.model, plan.task
        day, spent = self._spent.get(place, ("", 0.0))
        over = day == _today() and spent >= policy.shadow_usd_per_day
        if over or self._active.get(place, 0) >= policy.shadow_concurrency:
            self.left_out += 1
            return False
        self._active[place] = self._active.get(place, 0) + 1
        return True

    async def ask(self, exchange: Exchange, limit_s: float) -> tuple[RequestLine, AnswerText | None] | None:
        """Ask the candidate and write its line; return both, the answer None if it gave none."""
        plan, started = exchange.plan, time.monotonic()
        assert plan and plan.shadow
        place = plan.model, plan.task
        alone = Plan(plan.model, plan.task, plan.unit, plan.assignment, [Choice("candidate", plan.shadow)])
        line, text = _begin_line(exchange, plan), None
        try:
            async with asyncio.timeout(limit_s):
                text = await self._ask(alone, exchange, line, started + limit_s)
        except (ApiError, Interrupted, TimeoutError) as error:
            line.outcome, line.failures = "error", [f"{plan.shadow.label}: {type(error).__name__}"]
            if not isinstance(error, ApiError):  # it was at work
                line.prompt_tokens, line.estimated = estimate_prompt_tokens(exchange.body), True
        except Exception:
            log.exception("%s: its shadow failed: a bug", exchange.line.id)
            return None
        finally:
            self._active[place] -= 1
        line.latency_s, line.usd = round(time.monotonic() - started, 4), price(line, plan.shadow)
        day, spent = self._spent.get(place, ("", 0.0))
        self._spent[place] = (_today(), (spent if day == _today() else 0.0) + line.usd)
        self._write(line)
        return line, text

    async def _ask(self, plan: Plan, exchange: Exchange, line: RequestLine, deadline: float) -> AnswerText:
        dialect, body, started = DIALECTS[line.api], exchange.body, time.monotonic()
        async with self._forwarder.ask(plan, line.api, body, dialect, deadline, Asked()) as answer:
            line.first_token_s = round(time.monotonic() - started, 4)
            if isinstance(answer, Answer):
                text, usage = AnswerText.of_body(line.api, answer.body), answer.usage
            else:
                text, usage = await _read_stream(answer, line.api)
        if usage is None:
            usage = Usage(estimate_prompt_tokens(body), estimate_tokens(text.characters))
            line.estimated = True
        line.prompt_tokens, line.completion_tokens = usage.prompt, usage.completion
        line.answered_by, line.valid = text.model, calls_are_valid(body, text)
        line.agrees = _agrees(exchange.text, text)
        return text


async def _read_stream(stream: Stream, api: str) -> tuple[AnswerText, Usage | None]:
    text, usage, dialect = AnswerText(api), None, DIALECTS[api]
    for event in stream.first:
        text.add_event(event.data or {})
        usage = join_usage(usage, dialect.usage(event.data or {}))
    if stream.rest:
        async for events in stream.rest:
            for event in events:
                text.add_event(event.data or {})
                usage = join_usage(usage, dialect.usage(event.data or {}))
    return text, usage


def _begin_line(exchange: Exchange, plan: Plan) -> RequestLine:
    return RequestLine(
        f"req_{secrets.token_hex(12)}",
        model=plan.model,
        task=plan.task,
        unit=hash_unit(plan.unit),
        api=exchange.line.api,
        assigned="baseline",
        served="candidate",
        target=plan.shadow.label if plan.shadow else "",
        step=plan.assignment.step,
        move=plan.assignment.move,
        shadow_of=exchange.line.id,
    )


def _agrees(baseline: AnswerText | None, candidate: AnswerText) -> bool | None:
    """Return whether both called the same tools with the same arguments; None if neither called any."""
    if baseline is None or not (baseline.calls or candidate.calls):
        return None
    return _calls(baseline) == _calls(candidate)


def _calls(text: AnswerText) -> list[tuple[str, object]]:
    return sorted(((name, _parsed(arguments)) for name, arguments in text.calls), key=repr)


def _parsed(arguments: str) -> object:
    try:
        return orjson.loads(arguments)
    except ValueError:
        return arguments


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
