"""A model as judge of live answers, evidence like people's feedback; only one whose agreement with people was measured.

A share of requests is judged, whichever side answered, after the caller has its answer. What is sent to the judge is
masked as the log's prompts are.
"""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from pydantic import ValidationError

from tuneline.configs.gateway import Gateway, Judge
from tuneline.core import paths
from tuneline.core.errors import TunelineError
from tuneline.core.redaction import redact_url
from tuneline.endpoints.gateway.completions import Exchange
from tuneline.endpoints.gateway.logged_prompts import is_sampled, mask
from tuneline.endpoints.gateway.routing import last_user_text
from tuneline.endpoints.request_log.lines import JudgedLine
from tuneline.endpoints.traffic.evidence import answered
from tuneline.engines.providers import find_provider
from tuneline.stages.evaluate.scoring.llm_judge import JUDGED, MIN_LABELS, PROMPT, JudgeResult, parse_verdict

log = logging.getLogger(__name__)

MAX_TOKENS = 400
"""Room for a judge that reasons before its verdict."""
LIVE_STEPS = ("5", "25", "50", "100")
EXPECTED = "nothing is known of it"


class Judging:
    """Has answers judged, few at a time, within a budget a day."""

    def __init__(self, settings: Callable[[], Gateway], write: Callable[[JudgedLine], None]) -> None:
        self._settings, self._write = settings, write
        self._active, self._spent = 0, ("", 0.0)
        self._reported = ""

    def takes(self, exchange: Exchange) -> bool:
        """Return whether a finished request is to be judged; the caller then awaits `judge`."""
        settings, plan, line = self._settings(), exchange.plan, exchange.line
        route = settings.models.get(line.model)
        if settings.judge is None or plan is None or route is None or line.api != "chat/completions":
            return False
        if line.step not in LIVE_STEPS or "judged" not in route.policy_of(plan.task).outcomes:
            return False
        if not is_sampled(settings.judge.share) or answered(line.as_record()) is None:
            return False
        day, spent = self._spent
        is_spent = day == _today() and spent >= settings.judge.usd_per_day
        if is_spent or self._active >= settings.judge.concurrency:
            return False
        self._active += 1
        return True

    async def judge(self, exchange: Exchange) -> None:
        """Write what the judge says of a request's answer; one that the assigned side did not give is bad."""
        settings = self._settings().judge
        try:
            if settings is None or (problem := find_problem(settings)):
                self._report(problem if settings else "")
                return
            value = 0.0
            if exchange.text is not None and answered(exchange.line.as_record()) == 1.0:
                value = await self._ask(settings, exchange)
            self._write(JudgedLine(exchange.line.id, settings.label, value))
        except TunelineError as error:  # says nothing of the answer
            log.warning("%s was not judged: %s", exchange.line.id, error)
        finally:
            self._active -= 1

    async def _ask(self, settings: Judge, exchange: Exchange) -> float:
        assert exchange.text
        calls = [{"name": name, "arguments": arguments} for name, arguments in exchange.text.calls]
        answer = "\n".join(filter(None, [exchange.text.text, json.dumps(calls, ensure_ascii=False) if calls else ""]))
        prompt = PROMPT.format(prompt=mask(last_user_text(exchange.body)), expected=EXPECTED, answer=mask(answer))
        provider = find_provider(settings.url or settings.provider or "", settings.key_variable)
        async with provider.connect(settings.model) as chat:
            reply = await chat.ask([{"role": "user", "content": prompt}], temperature=0, max_tokens=MAX_TOKENS)
        usd = settings.prompt_usd_per_million * reply.prompt_tokens
        usd += settings.completion_usd_per_million * reply.completion_tokens
        day, spent = self._spent
        self._spent = (_today(), (spent if day == _today() else 0.0) + usd / 1e6)
        return float(parse_verdict(reply.text) is True)

    def _report(self, problem: str) -> None:
        """Log why nothing is judged, once."""
        if problem != self._reported:
            log.error("answers are not judged: %s", problem)
            self._reported = problem


def find_problem(judge: Judge) -> str:
    """Return why a judge's scores do not count, or an empty text: people's labels of the run must agree with it."""
    file = paths.run_folder(judge.run) / JUDGED
    remedy = f"`tuneline judge {judge.run} --model {judge.model} --labels SHEET` measures it"
    try:
        result = JudgeResult.model_validate_json(file.read_text("utf-8"))
    except (OSError, ValidationError):
        return f"{file}: cannot be read; {remedy}"
    if result.judge != redact_url(judge.label):
        return f"{file}: is of {result.judge}, not of {judge.label}; {remedy}"
    if result.labels < MIN_LABELS:
        return f"{file}: {result.labels} labels by people; {MIN_LABELS} are the fewest; {remedy}"
    if result.kappa is None or not result.kappa >= judge.least_kappa:
        return f"{file}: its kappa with people is {result.kappa}; least_kappa is {judge.least_kappa:g}"
    return ""


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
