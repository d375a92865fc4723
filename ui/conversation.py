"""Conversations of the page: what was asked and answered, each in a file of its own."""

import logging
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from tuneline.core import paths
from tuneline.core.files import write_atomic

log = logging.getLogger(__name__)

_ID = re.compile(r"[0-9]{8}-[0-9a-f]{12}")
TITLE_CHARACTERS = 60
State = Literal["running", "done", "stopped", "failed"]


class ToolCall(BaseModel):
    """A call of a tool, and what it came to."""

    name: str
    arguments: str
    result: str | None = None
    """None: nothing ran, or it still runs."""
    ok: bool = True


class WaitingCall(BaseModel):
    """A call that runs only if a person says so."""

    id: str
    name: str
    arguments: str
    reason: str = ""


class Turn(BaseModel):
    """A question and its answer."""

    question: str
    model: str
    style: str = ""
    answer: str = ""
    calls: list[ToolCall] = []
    waiting: list[WaitingCall] = []
    state: State = "running"
    problem: str = ""
    """Why there is no answer, or no more of it."""
    request: str = ""
    """The gateway's id of the request, which feedback is about."""
    tokens: int = 0
    first_token_s: float | None = None
    seconds: float = 0.0
    rating: str = ""
    correction: str = ""


class Conversation(BaseModel):
    """Turns, oldest first."""

    id: str
    turns: list[Turn] = []
    assistant: str = ""
    """Its id at the gateway's assistant, which keeps what was called."""
    changed: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def title(self) -> str:
        """The first question, shortened."""
        text = " ".join(self.turns[0].question.split()) if self.turns else "New conversation"
        return text if len(text) <= TITLE_CHARACTERS else f"{text[: TITLE_CHARACTERS - 1]}…"

    def messages(self) -> list[dict[str, Any]]:
        """Return the turns as chat messages; an unanswered question is left out, unless it is the last."""
        found: list[dict[str, Any]] = []
        for turn in self.turns[:-1]:
            if turn.answer.strip():
                found.append({"role": "user", "content": turn.question})
                found.append({"role": "assistant", "content": turn.answer})
        return [*found, *({"role": "user", "content": turn.question} for turn in self.turns[-1:])]


class ConversationStore:
    """The conversations of one owner; the same object for everybody who opens one, so that all see it grow."""

    def __init__(self, owner: str) -> None:
        self._folder = paths.ui() / "conversations" / owner
        self._open: dict[str, Conversation] = {}

    def new(self) -> Conversation:
        """Return an empty conversation; it has no file until `save`."""
        identity = f"{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(6)}"
        conversation = self._open[identity] = Conversation(id=identity)
        return conversation

    def find(self, identity: str) -> Conversation | None:
        """Return a conversation, or None if there is none that can be read."""
        if not _ID.fullmatch(identity):
            return None
        if identity not in self._open and (conversation := _read(self._file(identity))):
            self._open[identity] = conversation
        return self._open.get(identity)

    def latest(self) -> Conversation:
        """Return the conversation that was changed last, or a new one."""
        for identity in self._identities():
            if conversation := self.find(identity):
                return conversation
        return self.new()

    def list_recent(self, most: int) -> list[Conversation]:
        """Return conversations, the last changed first."""
        conversations = (self.find(identity) for identity in self._identities()[:most])
        return [conversation for conversation in conversations if conversation]

    def save(self, conversation: Conversation) -> None:
        """Write a conversation, for its owner's eyes only."""
        conversation.changed = datetime.now(UTC)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = self._file(conversation.id)
        write_atomic(file, conversation.model_dump_json(), private=True)

    def delete(self, identity: str) -> None:
        """Remove a conversation."""
        if _ID.fullmatch(identity):
            self._open.pop(identity, None)
            self._file(identity).unlink(missing_ok=True)

    def _identities(self) -> list[str]:
        files = sorted(self._folder.glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
        return [file.stem for file in files]

    def _file(self, identity: str) -> Path:
        return self._folder / f"{identity}.json"


def _read(file: Path) -> Conversation | None:
    try:
        conversation = Conversation.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (ValidationError, OSError) as error:
        log.error("%s: cannot be read: %s", file, type(error).__name__)
        return None
    for turn in conversation.turns:
        if turn.state == "running":  # the page's process ended meanwhile
            turn.state, turn.problem = "stopped", "the page was stopped while it was answered"
    return conversation
