"""One request of a suite, with what answers it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Item:
    """One request and its expected answer."""

    id: str
    text: str
    tool: str | None
    """The tool that must be called; None where several calls, an answer in text, or no call is expected."""
    arguments: dict[str, Any] | None
    """Expected arguments; None where they are not compared."""
    phrasing: str
    """The request's sentence template, without values, opener and closer. Items of one phrasing form a cluster; all
    turns of a conversation have the phrasing of the first."""
    says: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    price: str | None = None
    offers_tools: bool = True
    """Whether tools are sent with the request."""
    calls: tuple[dict[str, Any], ...] = ()
    """Several expected calls, in any order, each as `name` and `arguments`."""
    language: str | None = None
    in_language: bool = False
    reference: str | None = None
    style: str | None = None
    context: str = ""
    """A long text put before the request."""
    shown_tools: tuple[str | dict[str, Any], ...] | None = None
    """The tools that are sent: names in the catalogue, or entries of OpenAI's `tools`; None: the whole catalogue."""
    max_tokens: int = 96
    conversation: int = 0
    """Number of its conversation in the suite, from 0."""
    turn: int = 0
    """Number of its turn in the conversation, from 0."""
    messages: tuple[dict[str, Any], ...] = ()
    """Logged messages, in OpenAI's format, that are sent in place of `text`."""
    min_chrf: float | None = None
    """Least chrF of an answer to logged messages against `reference`; None: it must have the same words."""
    about: dict[str, Any] = field(default_factory=dict)
    """What distinguishes it from another item with the same text and answer, such as `length` and `depth`."""

    @property
    def expects_text(self) -> bool:
        """Whether the answer's text is checked."""
        return bool(self.says or self.never or self.price or self.in_language or self.style or self.repeats_log)

    @property
    def repeats_log(self) -> bool:
        """Whether the answer is compared with the logged one, in words."""
        return bool(self.messages and self.reference)

    @property
    def expected_calls(self) -> list[dict[str, Any]]:
        """The calls that must be made, as `name` and `arguments`; empty where none is expected."""
        return [{"name": self.tool, "arguments": self.arguments}] if self.tool else list(self.calls)


Suites = Mapping[str, Sequence[Item]]
"""Items by the name of their suite."""
