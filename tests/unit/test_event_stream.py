"""Server-sent events, whatever pieces they come in."""

import random
import time

import pytest

from tuneline.endpoints.gateway.event_stream import MAX_EVENT_BYTES, EventSplitter, MalformedEvent

EVENTS = b'data: {"a": 1}\n\n: ping\r\n\r\ndata: {"b":\r\ndata: 2}\r\n\r\ndata: [DONE]\n\n'


def test_events_are_the_same_in_any_pieces() -> None:
    whole = list(EventSplitter().feed(EVENTS))
    assert [event.data for event in whole] == [{"a": 1}, None, {"b": 2}, None] and whole[-1].is_done
    chance = random.Random(0)
    for _ in range(300):
        cuts = sorted(chance.sample(range(len(EVENTS) + 1), chance.randrange(1, 20)))
        splitter = EventSplitter()
        pieces = [EVENTS[a:b] for a, b in zip([0, *cuts], [*cuts, len(EVENTS)], strict=True)]
        assert [event for piece in pieces for event in splitter.feed(piece)] == whole
        assert not list(splitter.finish())


def test_a_large_event_is_looked_through_once() -> None:
    """Each piece began at the event's first byte again: 16 MiB kept all requests waiting for more than a minute."""
    splitter, piece = EventSplitter(), b"x" * 65_536
    began = time.process_time()
    with pytest.raises(MalformedEvent, match="does not end"):
        for _ in range(MAX_EVENT_BYTES // len(piece) + 1):
            assert not list(splitter.feed(piece))
    assert time.process_time() - began < 5
