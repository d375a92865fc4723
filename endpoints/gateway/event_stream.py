"""Server-sent events of an upstream, split as they arrive (WHATWG HTML, 9.2.6)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

_END = re.compile(rb"\r?\n\r?\n")
LONGEST_END = 3
"""Bytes of an event's end that may have come before its last one."""
MAX_EVENT_BYTES = 16 << 20


class MalformedEvent(ValueError):
    """An event whose data is no JSON object, or that never ends."""


@dataclass(frozen=True)
class StreamEvent:
    """One event."""

    raw: bytes
    """As it came, with the empty line that ends it."""
    data: dict[str, Any] | None
    """None for a comment, and for the sentinel `[DONE]`."""
    is_done: bool = False


class EventSplitter:
    """Bytes in any pieces → whole events."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0
        """Bytes of it in which no event ends: an event that comes in many pieces is looked through once."""

    def feed(self, piece: bytes) -> Iterator[StreamEvent]:
        """Yield the events that this piece completes.

        Raises:
            MalformedEvent: data that is no JSON object, or an event that is too long.
        """
        self._rest += piece
        begin = 0
        while match := _END.search(self._rest, max(begin, self._searched)):
            raw, begin = bytes(self._rest[begin : match.end()]), match.end()
            yield _parse(raw)
        del self._rest[:begin]
        self._searched = max(0, len(self._rest) - LONGEST_END)
        if len(self._rest) > MAX_EVENT_BYTES:
            raise MalformedEvent("an event does not end")

    def finish(self) -> Iterator[StreamEvent]:
        """Yield what came after the last empty line, if it is a whole event: some servers leave the line out."""
        rest, self._rest, self._searched = bytes(self._rest.strip(b"\r\n")), bytearray(), 0
        if rest:
            yield _parse(rest + b"\n\n")


def _parse(raw: bytes) -> StreamEvent:
    lines = [line[5:].lstrip(b" ") for line in raw.splitlines() if line.startswith(b"data:")]
    if not lines:
        return StreamEvent(raw, None)
    text = b"\n".join(lines).strip()
    if text == b"[DONE]":
        return StreamEvent(raw, None, is_done=True)
    try:
        data = orjson.loads(text)
    except ValueError:
        raise MalformedEvent("an event's data is not JSON") from None
    if not isinstance(data, dict):
        raise MalformedEvent("an event's data is not an object")
    return StreamEvent(raw, data)
