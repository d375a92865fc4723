"""A request on its way through a plan's targets, until one of them brings a first token or a whole answer."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import lru_cache

from tuneline.configs.gateway import Target
from tuneline.core.environment import read_stated_variable
from tuneline.core.errors import NotFound, TunelineError
from tuneline.endpoints.engine_address import EngineAddress, Engines
from tuneline.endpoints.gateway.api_errors import ApiError
from tuneline.endpoints.gateway.dialects import ChatDialect
from tuneline.endpoints.gateway.failures import Failure
from tuneline.endpoints.gateway.request_body import Body, payload_for
from tuneline.endpoints.gateway.routing import Choice, Plan
from tuneline.endpoints.gateway.upstream import Answer, Stream, Upstream
from tuneline.engines.control_tokens import ControlTokens
from tuneline.engines.providers import NO_KEY, find_provider

log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.25
"""Before the second try; doubled before each further one, and varied (AWS, "Exponential backoff and jitter")."""
BOOT_POLL_S = 0.25
BOOT_S = 120.0
"""Longest wait for an engine that starts, where nobody else can be asked."""


@dataclass
class Asked:
    """What happened to a request on its way."""

    choice: Choice | None = None
    """Who answered."""
    tried: Choice | None = None
    """Who was asked last; a caller who leaves may leave an answer that costs something."""
    failures: list[tuple[Choice, Failure]] = field(default_factory=list)
    trace_headers: Mapping[str, str] = field(default_factory=dict)
    """What targets are sent, so that their spans are in the request's trace."""


class Forwarder:
    """All upstreams, by target."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._upstreams: dict[Target, Upstream] = {}
        self._spent: dict[str, tuple[date, float]] = {}
        """Target's label → a day and what it cost on it."""

    def upstream(self, target: Target) -> Upstream:
        return self._upstreams.setdefault(target, Upstream(target))

    def check_promoted(self, name: str) -> None:
        """Check that something is promoted under a name, before it costs anything: callers can send any.

        Raises:
            ApiError: 404.
        """
        try:
            self._engines.resolve(name)
        except NotFound:
            raise _unknown(name) from None

    def note_spent(self, label: str, usd: float) -> None:
        """Count what a target cost today (UTC)."""
        if usd:
            today, (day, spent) = datetime.now(UTC).date(), self._spent.get(label, (date.min, 0.0))
            self._spent[label] = (today, (spent if day == today else 0.0) + usd)

    def spent_today(self, label: str) -> float:
        """Return what a target cost today, in USD."""
        day, spent = self._spent.get(label, (date.min, 0.0))
        return spent if day == datetime.now(UTC).date() else 0.0

    @property
    def upstreams(self) -> list[Upstream]:
        return list(self._upstreams.values())

    async def close(self) -> None:
        for upstream in self._upstreams.values():
            await upstream.close()

    @contextlib.asynccontextmanager
    async def ask(
        self, plan: Plan, api: str, body: Body, dialect: ChatDialect, deadline: float, asked: Asked
    ) -> AsyncIterator[Answer | Stream]:
        """Yield the first answer or stream of the plan's targets; `asked` is filled on the way.

        Raises:
            ApiError: nobody answered.
        """
        async with contextlib.AsyncExitStack() as stack:
            boot_deadline = min(deadline, time.monotonic() + BOOT_S)
            while True:
                for choice in plan.choices:
                    answer = await self._try(stack, choice, api, body, dialect, deadline, asked)
                    if answer is not None:
                        asked.choice = choice
                        yield answer
                        return
                if not _boots(asked) or time.monotonic() + BOOT_POLL_S > boot_deadline:
                    raise _error_of(plan, asked)
                asked.failures.clear()
                await asyncio.sleep(BOOT_POLL_S)

    async def _try(
        self,
        stack: contextlib.AsyncExitStack,
        choice: Choice,
        api: str,
        body: Body,
        dialect: ChatDialect,
        deadline: float,
        asked: Asked,
    ) -> Answer | Stream | None:
        """Return the answer of one target, also after further tries, or None if another is to be asked."""
        upstream = self.upstream(choice.target)
        for attempt in range(1 + choice.target.retries):
            asked.tried = choice
            try:
                answer = await self._ask_once(stack, upstream, api, body, dialect, deadline, asked)
            except Failure as failure:
                asked.failures.append((choice, failure))
                log.info("%s: %s: %s", choice.target.label, failure.kind, failure.message)
                if failure.is_answer:
                    raise failure.to_api_error(choice.target.label) from None
                pause_s = _pause_s(failure, attempt, choice.target)
                if pause_s is None or time.monotonic() + pause_s >= deadline:
                    return None
                await asyncio.sleep(pause_s)
            else:
                return answer
        return None

    async def _ask_once(
        self,
        stack: contextlib.AsyncExitStack,
        upstream: Upstream,
        api: str,
        body: Body,
        dialect: ChatDialect,
        deadline: float,
        asked: Asked,
    ) -> Answer | Stream:
        self._check_budget(upstream.target)
        async with contextlib.AsyncExitStack() as attempt:
            address = attempt.enter_context(self._locate(upstream.target))
            if address.base_url is None:
                raise Failure("booting", "is starting", retry_after_s=5)
            payload = address.complete(api, payload_for(api, body, upstream.target))
            if not upstream.breaker.allow():
                message = f"failed repeatedly, at last with: {upstream.last_failure}"
                raise Failure("open", message, retry_after_s=upstream.breaker.opens_in_s)
            url, left_s = f"{address.base_url.rstrip('/')}/{api}", max(0.01, deadline - time.monotonic())
            address = replace(address, headers={**asked.trace_headers, **address.headers})
            try:
                answer = await attempt.enter_async_context(upstream.ask(url, address, payload, dialect, left_s))
            except Failure as failure:
                breaker, upstream.last_failure = upstream.breaker, failure.message
                (breaker.fail if failure.is_fault else breaker.succeed if failure.is_answer else breaker.release)()
                raise
            except BaseException:  # the caller has left
                upstream.breaker.release()
                raise
            upstream.breaker.succeed()
            stack.push_async_exit(attempt.pop_all())  # the engine is held, and the request kept, to the answer's end
            return answer
        raise AssertionError("no attempt swallows its failure")

    def _check_budget(self, target: Target) -> None:
        """Raises Failure if what a target may cost today is spent."""
        budget = target.budget_usd_per_day
        if budget is not None and self.spent_today(target.label) >= budget:
            raise Failure("budget", f"its budget of {budget:g} USD per day is spent", retry_after_s=600)

    @contextlib.contextmanager
    def _locate(self, target: Target) -> Iterator[EngineAddress]:
        """Hold the address of a target.

        Raises:
            Failure: nothing is promoted under its name, or its key is missing.
        """
        if target.promoted:
            with contextlib.ExitStack() as held:
                try:
                    address = held.enter_context(self._engines.use(target.promoted))
                except NotFound:
                    raise Failure("unknown", "nothing is promoted under that name", status=404) from None
                yield address
            return
        yield _hosted_address(target)


def _hosted_address(target: Target) -> EngineAddress:
    """Return the address of a provider's model. Raises Failure if its key is missing."""
    try:
        provider = find_provider(target.url or target.provider or "", target.key_variable)
    except TunelineError as error:
        raise Failure("unknown", str(error)) from None
    key = read_stated_variable(provider.key_variable) if provider.key_variable else NO_KEY
    if not key:
        raise Failure("unknown", f"{provider.key_variable} is not set")
    headers = {"authorization": f"Bearer {key}"}
    tokens = _control_tokens(target.control_tokens)
    return EngineAddress(provider.base_url, {"model": target.model or ""}, headers=headers, control_tokens=tokens)


@lru_cache(maxsize=256)
def _control_tokens(texts: tuple[str, ...]) -> ControlTokens | None:
    return ControlTokens(texts) if texts else None


def _pause_s(failure: Failure, attempt: int, target: Target) -> float | None:
    """Return the seconds before the same target is asked again, or None if another is to be asked."""
    if not failure.same_again or attempt >= target.retries:
        return None
    if failure.retry_after_s is not None:
        return failure.retry_after_s if failure.retry_after_s <= target.retry_after_s else None
    return float(FIRST_BACKOFF_S * 2**attempt * random.uniform(0.75, 1.25))


def _boots(asked: Asked) -> bool:
    """Return whether waiting helps: an engine starts, and nobody else gave an answer."""
    return any(failure.kind == "booting" for _, failure in asked.failures)


def _error_of(plan: Plan, asked: Asked) -> ApiError:
    """Return the error of the assigned target's last failure: what others said hides why they were asked."""
    first = asked.failures[0][0]
    failures = [failure for choice, failure in asked.failures if choice is first]
    failure = next((failure for failure in reversed(failures) if failure.kind != "open"), failures[-1])
    if failure.kind == "unknown" and failure.status == 404:
        return _unknown(plan.model)
    return failure.to_api_error(plan.model)


def _unknown(model: str) -> ApiError:
    message = f"{model[:100]}: not served here; `GET /v1/models` lists what is"
    return ApiError(404, message, code="model_not_found", param="model")
