"""A question that is being answered: what stays the same in all its rounds, and how far it is."""

from dataclasses import dataclass
from typing import Any

from tuneline.endpoints.assistant.store import Message, Progress
from tuneline.endpoints.assistant.system_message import SystemMessage


@dataclass
class Question:
    """A question that is being answered."""

    owner: str
    conversation: str
    messages: list[Message]
    offered: list[dict[str, Any]]
    """The tools that the model is shown."""
    untrusted: list[str]
    """What others wrote of what the prompt has: a tool that is named there is confirmed first."""
    sources: tuple[str, ...]
    system: SystemMessage
    progress: Progress
