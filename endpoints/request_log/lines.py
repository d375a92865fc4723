"""The lines of the request log: one for each request, one for each piece of feedback. Others read these formats."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

OUTCOMES = ("ok", "error", "interrupted", "refused", "left")
"""answered; nobody answered; broke off after the first token; the request was not as it should be; the caller left."""


@dataclass
class RequestLine:
    """A request, without what was said in it."""

    id: str
    model: str = ""
    task: str = ""
    key: str = ""
    """Owner of the key; empty where none is needed."""
    unit: str = ""
    """A hash of the unit: units may be names of people."""
    api: str = ""
    assigned: str = "baseline"
    """The side that the unit is assigned to; analysis is by this one."""
    served: str = ""
    """The side that answered: baseline, candidate, fallback; empty if none."""
    target: str = ""
    answered_by: str = ""
    """The model's name in its answer."""
    step: str = "baseline"
    move: int = 0
    """Number of the policy's move that was in force."""
    outcome: str = "ok"
    status: int = 0
    valid: bool | None = None
    """Whether the tool calls fit the request's schemas; None without calls."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool | None = None
    """Whether tokens and cost are estimated, because the upstream told none, or not to the end."""
    first_token_s: float | None = None
    latency_s: float = 0.0
    usd: float = 0.0
    failures: list[str] = field(default_factory=list)
    """`TARGET: KIND` of each try that failed."""
    shadow_of: str = ""
    """Id of the request that this one repeats for the candidate; empty for a caller's own."""
    agrees: bool | None = None
    """Of a shadow request: whether it called the same tools with the same arguments; None without calls."""
    prompt: list[Any] | None = None
    """Messages, redacted; only where the log is set to have them."""
    answer: dict[str, Any] | None = None
    """The assistant's message, redacted."""
    prompts: dict[str, str] | None = None
    """Prompts that it was made of, by name and version → hash of the text: as the caller's `x-tuneline-prompt` says,
    and the style that it asked for."""
    tools: list[str] | None = None
    """Names of the tools that were offered."""
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    def as_record(self) -> dict[str, Any]:
        """Return the line; what is empty by default is left out."""
        return {"kind": "request"} | {
            name: value for name, value in asdict(self).items() if value not in (None, "", [])
        }


@dataclass(frozen=True)
class JudgedLine:
    """What a judge says of an answer."""

    id: str
    """The request's."""
    judge: str
    value: float
    """0 is bad, 1 is good."""
    shadow_of: str = ""
    """Of a shadow request's answer: the request that it repeats, whose own answer's line comes before."""
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    def as_record(self) -> dict[str, Any]:
        return {"kind": "judged"} | {name: value for name, value in asdict(self).items() if value != ""}


@dataclass(frozen=True)
class FeedbackLine:
    """What somebody says of an answer."""

    id: str
    """The request's."""
    key: str
    value: float | None
    """0 is bad, 1 is good; None with a correction alone."""
    correction: str | None = None
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    def as_record(self) -> dict[str, Any]:
        return {"kind": "feedback"} | {name: value for name, value in asdict(self).items() if value is not None}
