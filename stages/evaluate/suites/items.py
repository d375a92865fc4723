"""A suite's items: requests with known answers, the same for the same seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from tuneline.configs.evaluation import Request, Suite, Turn
from tuneline.core.errors import BadRecipe
from tuneline.stages.evaluate.suites.long_context import hidden
from tuneline.stages.evaluate.suites.run_context import Known
from tuneline.stages.evaluate.suites.suite_requests import language_of_grammar, parallel_requests, suite_requests


@dataclass(frozen=True)
class Item:
    """One request and what answers it; `carrier` is its sentence frame: no values, no opener, no closer."""

    id: str
    text: str
    tool: str | None
    """The tool that must be called; None where several calls or words are wanted, or anything but a call."""
    arguments: dict[str, Any] | None
    """None where they are not looked at."""
    carrier: str
    """What falls together with it: all turns of a conversation have that of the first."""
    says: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    price: str | None = None
    offered: bool = True
    """Whether tools are offered with it."""
    calls: tuple[dict[str, Any], ...] = ()
    """Several calls, in any order, each as `name` and `arguments`."""
    language: str | None = None
    in_language: bool = False
    reference: str | None = None
    style: str | None = None
    context: str = ""
    """A long text put before the request."""
    shown: tuple[str, ...] | None = None
    """The tools that are offered; None: all."""
    max_tokens: int = 96
    talk: int = 0
    """The number of its conversation, and of its turn there."""
    turn: int = 0
    about: dict[str, Any] = field(default_factory=dict)
    """What tells it from another item with the same text and answer."""

    @property
    def in_words(self) -> bool:
        """Whether what is said decides."""
        return bool(self.says or self.never or self.price or self.in_language or self.style)


def make_items(suite: Suite, known: Known | None = None) -> tuple[Item, ...]:
    """`suite.rows` items with different texts, the handlers in turn so that all are asked equally often; then those
    that want several calls; then its own, the turns of a conversation one after the other.

    Raises:
        BadRecipe: a request names a value that is not in its `each`, or there is nothing to ask in this run.
    """
    known = known or Known()
    made = [[item] for item in _from_grammars(suite)] if suite.rows else []
    talks = made + list(_own(suite, known))
    if not talks:
        raise BadRecipe(f"suite {suite.name}: nothing of it can be asked in a context of {known.context} tokens")
    numbers, offered = count(), known.offered(suite.offered)
    return tuple(
        replace(
            item,
            id=f"{suite.name}-{next(numbers):04d}",
            talk=talk,
            max_tokens=suite.max_tokens,
            shown=known.preselector.shown(item.text, offered) if offered and item.offered else None,
        )
        for talk, turns in enumerate(talks)
        for item in turns
    )


def _from_grammars(suite: Suite) -> Iterator[Item]:
    """The requests of each grammar, then two in one; a language is told where there are several grammars."""
    parts = len(suite.grammars)
    languages = [language_of_grammar(grammar) if parts > 1 else None for grammar in suite.grammars]
    for number, (grammar, language) in enumerate(zip(suite.grammars, languages, strict=True)):
        for r in suite_requests(grammar, _part(suite.rows or 1, number, parts), suite.seed):
            yield Item("", r.text, r.tool, dict(r.arguments), r.carrier, language=language)
    for number, (grammar, language) in enumerate(zip(suite.grammars, languages, strict=True)):
        both = _part(suite.parallel, number, parts)
        for text, carrier, requests in parallel_requests(grammar, both, suite.seed) if both else ():
            calls = tuple({"name": r.tool, "arguments": dict(r.arguments)} for r in requests)
            yield Item("", text, None, None, carrier, calls=calls, language=language)


def _part(rows: int, number: int, parts: int) -> int:
    return rows * (number + 1) // parts - rows * number // parts


def _own(suite: Suite, known: Known) -> Iterator[list[Item]]:
    pairs = known.style_pairs if suite.styles else ({},)
    if suite.styles and len(pairs) < 2:
        raise BadRecipe(f"suite {suite.name}: asks for the run's styles, but its data has fewer than two")
    asked = [talk for request in suite.items for pair in pairs for talk in _written_out(suite.name, request, pair)]
    yield from hidden(suite, asked, known) if suite.lengths else asked


def _written_out(suite: str, request: Request, styles: Mapping[str, str]) -> Iterator[list[Item]]:
    for number, ask in enumerate(_each_of(request.ask)):
        for values in request.each:
            try:
                yield [
                    replace(_item(turn, _each_of(turn.ask), chosen, {**values, **styles}), carrier=ask, turn=place)
                    for place, (turn, chosen) in enumerate([(request, number), *((t, number) for t in request.then)])
                ]
            except (KeyError, ValueError, IndexError) as error:
                raise BadRecipe(f"suite {suite}: {ask!r}: {error}: not a value of its `each`") from None


def _item(turn: Turn, asks: Sequence[str], number: int, values: Mapping[str, str]) -> Item:
    def filled(text: str | None) -> str | None:
        return text.format_map(values) if text else None

    return Item(
        id="",
        text=asks[number % len(asks)].format_map(values),
        tool=turn.call,
        arguments=turn.arguments,
        carrier="",
        says=tuple(word.format_map(values) for word in turn.says),
        never=tuple(word.format_map(values) for word in turn.never),
        price=filled(turn.price),
        offered=turn.tools,
        calls=tuple({"name": call.call, "arguments": call.arguments} for call in turn.calls),
        language=turn.language,
        in_language=turn.in_language,
        reference=filled(turn.reference),
        style=filled(turn.style),
        context=filled(turn.fact) or "",
    )


def _each_of(ask: str | tuple[str, ...]) -> tuple[str, ...]:
    return (ask,) if isinstance(ask, str) else ask
