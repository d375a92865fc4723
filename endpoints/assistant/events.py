"""What an assistant reports while it answers, and its limits."""

from dataclasses import dataclass
from typing import Any, Literal

from tuneline.endpoints.assistant.store import Pending

Memory = Literal["drop", "summarise"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one question and of what a prompt holds."""

    rounds: int = 6
    """Answers of the model in which it may call tools; in one more it may not, and says what it knows."""
    tokens: int = 32_000
    """Of all prompts and answers of a question; beyond them, the next answer is the last."""
    history_tokens: int = 4_000
    """Of earlier turns in a prompt, estimated; the oldest are dropped, and deleted."""
    memory: Memory = "drop"
    """What becomes of turns that are dropped: nothing, or the model's summary of them, which later prompts have."""
    summary_tokens: int = 300
    """Of a summary."""
    answer_tokens: int = 512
    """Of one answer of the model."""
    result_characters: int = 8_000
    """Of one result; the rest is cut, and the model reads how much there was."""
    document_tokens: int = 1_500
    """Of passages from documents in a prompt, estimated."""
    calls: int = 16
    """In one answer; they run at the same time."""


@dataclass(frozen=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class Called:
    """A call that is about to run."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Returned:
    """What a call came to, as the model reads it."""

    name: str
    text: str
    ok: bool


@dataclass(frozen=True)
class Waiting:
    """A call that waits for a person; `reason` says why."""

    pending: Pending
    reason: str


@dataclass(frozen=True)
class Done:
    """The end: `reason` is stop, length, rounds, tokens or confirmation."""

    conversation: str
    text: str
    reason: str
    rounds: int
    tokens: int
    sources: tuple[str, ...] = ()
    """Of the passages that the model was shown."""


Event = Text | Called | Returned | Waiting | Done
