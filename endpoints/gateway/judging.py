"""A model as judge of live answers, evidence like people's feedback; only one whose agreement with people was measured.

A share of requests is judged, whichever side answered, after the caller has its answer. In shadow both sides have
answered the same request: both answers are judged, and count as a pair or not at all. What is sent to the judge is
masked as the log's prompts are.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from pydantic import ValidationError

from tuneline.configs.gateway import Gateway, Judge
from tuneline.core import paths
from tuneline.core.errors import TunelineError
from tuneline.core.redaction import redact_url
from tuneline.endpoints.gateway.answer_checks import AnswerText
from tuneline.endpoints.gateway.completions import Exchange
from tuneline.endpoints.gateway.logged_prompts import is_sampled, mask
from tuneline.endpoints.gateway.routing import last_user_text
from tuneline.endpoints.request_log.lines import JudgedLine, RequestLine
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
        line = exchange.line
        is_live = line.step in LIVE_STEPS and answered(line.as_record()) is not None
        return is_live and self._takes(exchange)

    def takes_pair(self, exchange: Exchange) -> bool:
        """Return whether a request that was asked in shadow, too, is to be judged; the caller then awaits
        `judge_pair`."""
        return exchange.line.step == "shadow" and self._takes(exchange)

    def _takes(self, exchange: Exchange) -> bool:
        settings, plan, line = self._settings(), exchange.plan, exchange.line
        route = settings.models.get(line.model)
        if settings.judge is None or plan is None or route is None or line.api != "chat/completions":
            return False
        if "judged" not in route.policy_of(plan.task).outcomes or not is_sampled(settings.judge.share):
            return False
        if line.outcome == "left" and line.first_token_s is not None:  # half an answer says nothing of a whole one
            return False
        day, spent = self._spent
        is_spent = day == _today() and spent >= settings.judge.usd_per_day
        if is_spent or self._active >= settings.judge.concurrency:
            return False
        self._active += 1
        return True

    async def judge(self, exchange: Exchange) -> None:
        """Write what the judge says of a request's answer; one that the assigned side did not give is bad."""
        has_answered = answered(exchange.line.as_record()) == 1.0
        with self._judging(exchange) as settings:
            if settings:
                value = await self._ask(settings, exchange, exchange.text if has_answered else None)
                self._write(JudgedLine(exchange.line.id, settings.label, value))

    async def judge_pair(self, exchange: Exchange, shadow: RequestLine, answer: AnswerText | None) -> None:
        """Write what the judge says of both answers to a request: the baseline's, and the candidate's in shadow."""
        with self._judging(exchange) as settings:
            if settings:
                baseline = await self._ask(settings, exchange, exchange.text)
                same = answer is not None and _read_answer(answer) == _read_answer(exchange.text)
                candidate = baseline if same else await self._ask(settings, exchange, answer)
                self._write(JudgedLine(exchange.line.id, settings.label, baseline))
                self._write(JudgedLine(shadow.id, settings.label, candidate, shadow_of=exchange.line.id))

    @contextlib.contextmanager
    def _judging(self, exchange: Exchange) -> Iterator[Judge | None]:
        """Yield the judge if it counts; an error of its server is logged, and says nothing of the answer."""
        settings = self._settings().judge
        try:
            problem = find_problem(settings) if settings else ""
            self._report(problem)
            yield None if problem else settings
        except TunelineError as error:
            log.warning("%s was not judged: %s", exchange.line.id, error)
        finally:
            self._active -= 1

    async def _ask(self, settings: Judge, exchange: Exchange, text: AnswerText | None) -> float:
        """Return 1 for an answer that the judge finds good; 0 for another, and for none."""
        if text is None:
            return 0.0
        prompt = PROMPT.format(
            prompt=mask(last_user_text(exchange.body)), expected=EXPECTED, answer=mask(_read_answer(text))
        )
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
        if problem and problem != self._reported:
            log.error("answers are not judged: %s", problem)
            self._reported = problem


def _read_answer(text: AnswerText | None) -> str:
    """Return what is judged of an answer: its text and its calls."""
    if text is None:
        return ""
    calls = [{"name": name, "arguments": arguments} for name, arguments in text.calls]
    return "\n".join(filter(None, [text.text, json.dumps(calls, ensure_ascii=False) if calls else ""]))


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
