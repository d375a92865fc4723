"""What the request log says of the last minutes, of today's and this month's cost, and of sampled answers."""

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuneline.endpoints.request_log.follower import LogFollower

WINDOW_S = 600
"""How long requests stay in the figures."""
MOST_REQUESTS, MOST_SAMPLES = 50_000, 15


@dataclass(frozen=True)
class Served:
    """A request of the window."""

    at: datetime
    ok: bool
    first_token_s: float | None
    latency_s: float
    tokens: int


@dataclass
class Sample:
    """A request whose words are in the log."""

    at: datetime
    model: str
    side: str
    question: str
    answer: str
    marks: list[str] = field(default_factory=list)
    """`good`, `bad`, `corrected`, `calls do not fit`, or an outcome other than ok."""


class LogWindow:
    """Follows the log."""

    def __init__(self, logs: Path) -> None:
        self._follower = LogFollower(logs, since=datetime.now(UTC).date().replace(day=1))
        self.served: deque[Served] = deque(maxlen=MOST_REQUESTS)
        self.samples: OrderedDict[str, Sample] = OrderedDict()
        """By request, oldest first."""
        self.usd_by_day: dict[str, float] = {}

    def refresh(self) -> None:
        """Read what is new."""
        for record in self._follower.poll():
            try:
                self._add(record)
            except (KeyError, TypeError, ValueError):  # a line of another version
                continue
        first = datetime.now(UTC) - timedelta(seconds=WINDOW_S)
        while self.served and self.served[0].at < first:
            self.served.popleft()

    def spent(self) -> tuple[float, float]:
        """Return the USD of today and of this month (UTC)."""
        today = datetime.now(UTC).date().isoformat()
        month = sum(usd for day, usd in self.usd_by_day.items() if day[:7] == today[:7])
        return self.usd_by_day.get(today, 0.0), month

    def since(self, seconds: float) -> list[Served]:
        """Return the requests that ended in the last seconds."""
        first = datetime.now(UTC) - timedelta(seconds=seconds)
        return [request for request in self.served if request.at >= first]

    def _add(self, record: dict[str, Any]) -> None:
        if record.get("kind") == "feedback":
            self._mark(record)
            return
        at = datetime.fromisoformat(record["at"])
        day = at.date().isoformat()
        self.usd_by_day[day] = self.usd_by_day.get(day, 0.0) + float(record.get("usd") or 0)
        if record.get("shadow_of") or record.get("outcome") == "refused":
            return
        outcome = record.get("outcome", "ok")
        first_token_s, latency_s = record.get("first_token_s"), float(record.get("latency_s") or 0)
        tokens = int(record.get("completion_tokens") or 0)
        self.served.append(Served(at, outcome in ("ok", "left"), first_token_s, latency_s, tokens))
        if record.get("prompt"):
            self._add_sample(record, at, outcome)

    def _add_sample(self, record: dict[str, Any], at: datetime, outcome: str) -> None:
        marks = [] if outcome == "ok" else [outcome]
        marks += ["calls do not fit"] if record.get("valid") is False else []
        question = next((_text(m) for m in reversed(record["prompt"]) if m.get("role") == "user"), "")
        answer = _text(record.get("answer") or {})
        self.samples[record["id"]] = Sample(
            at, str(record.get("model", "")), str(record.get("served", "")), question, answer, marks
        )
        while len(self.samples) > MOST_SAMPLES:
            self.samples.popitem(last=False)

    def _mark(self, record: dict[str, Any]) -> None:
        sample = self.samples.get(record.get("id", ""))
        if sample is None:
            return
        value, correction = record.get("value"), record.get("correction")
        if value is not None:
            sample.marks = [mark for mark in sample.marks if mark not in ("good", "bad")]
            sample.marks.append("good" if value > 0.5 else "bad")
        if correction and "corrected" not in sample.marks:
            sample.marks.append("corrected")


def quantile(values: Iterable[float], share: float) -> float | None:
    """Return the smallest value that `share` of the values do not exceed; None without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def _text(message: dict[str, Any]) -> str:
    """Return what a message says: its text, and its calls."""
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    functions = [call.get("function") or {} for call in message.get("tool_calls") or ()]
    calls = [f"{function.get('name')}({function.get('arguments')})" for function in functions]
    return "\n".join([*([str(content)] if content else []), *calls])
