"""Who a handler works for: the key whose conversation it is, for handlers that keep something of theirs."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from tuneline.endpoints.assistant.store import Store


@dataclass(frozen=True)
class Caller:
    """The owner of a conversation, and where what is theirs is kept."""

    owner: str
    conversation: str
    store: Store


_CALLER: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """Return whom the running handler works for. Raises LookupError outside of a call."""
    return _CALLER.get()


@contextmanager
def calling(caller: Caller) -> Iterator[None]:
    """Make `caller` the current one."""
    token = _CALLER.set(caller)
    try:
        yield
    finally:
        _CALLER.reset(token)
