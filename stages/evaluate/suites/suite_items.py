"""A suite's items: requests with expected answers, the same for the same seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count

from tuneline.configs.evaluation import Request, Suite, Turn
from tuneline.core.errors import BadRecipe
from tuneline.core.placeholders import fill
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.suites.logged_chats import logged_items
from tuneline.stages.evaluate.suites.long_context import hide_facts
from tuneline.stages.evaluate.suites.run_context import NO_RUN, RunContext
from tuneline.stages.evaluate.suites.suite_requests import language_of_grammar, parallel_requests, suite_requests

MAX_ITEMS = 100_000
"""Of a suite. At 20 ms an answer, the fastest that we measured, they take half an hour for each model."""
MAX_TEXT = 50_000_000
"""Characters of all messages that a suite writes out, which are held in memory together."""


def make_items(suite: Suite, run_context: RunContext = NO_RUN) -> tuple[Item, ...]:
    """Return the items of a suite, in a fixed order.

    First `suite.rows` items with different texts, the handlers in turn so that all are asked equally often; then those
    that expect several calls; then the written ones, the turns of a conversation one after the other.

    Raises:
        BadRecipe: a request names a value that is not in its `each`, or nothing can be asked in this run.
    """
    conversations = [[item] for item in _generated_items(suite, run_context)]
    conversations += _written_items(suite, run_context)
    if not conversations:
        tokens = run_context.context_tokens
        raise BadRecipe(f"suite {suite.name}: no item fits in a context of {tokens} tokens")
    numbers, shown_tools = count(), run_context.shown_tools(suite.offered)
    return tuple(
        replace(
            item,
            id=f"{suite.name}-{next(numbers):04d}",
            conversation=number,
            max_tokens=max(suite.max_tokens, item.max_tokens) if item.messages else suite.max_tokens,
            shown_tools=run_context.preselector.select(item.text, shown_tools)
            if shown_tools and item.offers_tools and item.shown_tools is None
            else item.shown_tools,
        )
        for number, turns in enumerate(conversations)
        for item in turns
    )


def _generated_items(suite: Suite, run_context: RunContext) -> Iterator[Item]:
    """Yield the items of a suite's logged chats or of its grammars."""
    if suite.path:
        yield from logged_items(suite, run_context)
    elif suite.rows:
        yield from _grammar_items(suite)


def _grammar_items(suite: Suite) -> Iterator[Item]:
    """Yield each grammar's requests, then pairs of them; `language` is set where there are several grammars."""
    parts = len(suite.grammars)
    languages = [language_of_grammar(grammar) if parts > 1 else None for grammar in suite.grammars]
    for number, (grammar, language) in enumerate(zip(suite.grammars, languages, strict=True)):
        for r in suite_requests(grammar, _part(suite.rows or 1, number, parts), suite.seed):
            yield Item("", r.text, r.tool, dict(r.arguments), r.phrasing, language=language)
    for number, (grammar, language) in enumerate(zip(suite.grammars, languages, strict=True)):
        rows = _part(suite.parallel, number, parts)
        for text, phrasing, requests in parallel_requests(grammar, rows, suite.seed) if rows else ():
            calls = tuple({"name": r.tool, "arguments": dict(r.arguments)} for r in requests)
            yield Item("", text, None, None, phrasing, calls=calls, language=language)


def _part(rows: int, number: int, parts: int) -> int:
    return rows * (number + 1) // parts - rows * number // parts


def _written_items(suite: Suite, run_context: RunContext) -> Iterator[list[Item]]:
    """Yield the conversations written in the suite, for each style of the run or with each long text if it says so."""
    pairs: Sequence[Mapping[str, str]] = run_context.style_pairs if suite.styles else ({},)
    if suite.styles and len(pairs) < 2:
        raise BadRecipe(f"suite {suite.name}: evaluates the run's styles, but its data has fewer than two")
    _refuse_too_many(suite, len(pairs))
    conversations, characters = [], 0
    for request in suite.items:
        for turns in (turns for pair in pairs for turns in _conversations(suite.name, request, pair)):
            characters += sum(len(item.text) + len(item.context) for item in turns)
            if characters > MAX_TEXT:
                raise BadRecipe(f"suite {suite.name}: its messages are more than {MAX_TEXT:,} characters; split it")
            conversations.append(turns)
    yield from hide_facts(suite, conversations, run_context) if suite.lengths else conversations


def _refuse_too_many(suite: Suite, styles: int) -> None:
    """Raise BadRecipe if phrasings, values, styles, lengths and depths multiply to more than `MAX_ITEMS`."""
    conversations = sum(
        len(_phrasings(request.ask)) * len(request.each) * (1 + len(request.then)) for request in suite.items
    )
    items = conversations * styles * max(1, len(suite.lengths) * len(suite.depths))
    if items > MAX_ITEMS:
        raise BadRecipe(f"suite {suite.name}: its items make {items:,} requests; a suite has at most {MAX_ITEMS:,}")


def _conversations(suite: str, request: Request, styles: Mapping[str, str]) -> Iterator[list[Item]]:
    """Yield one conversation for each phrasing of the first turn and each set of values."""
    for number, phrasing in enumerate(_phrasings(request.ask)):
        for values in request.each:
            try:
                yield [
                    replace(_item(turn, number, {**values, **styles}), phrasing=phrasing, turn=place)
                    for place, turn in enumerate([request, *request.then])
                ]
            except ValueError as error:
                raise BadRecipe(f"suite {suite}: {phrasing[:60]!r}: {error}; define values under `each`") from None


def _item(turn: Turn, number: int, values: Mapping[str, str]) -> Item:
    """Return a turn in its phrasing `number` (they repeat), with the values filled in."""

    def fill_optional(text: str | None) -> str | None:
        return fill(text, values) if text else None

    phrasings = _phrasings(turn.ask)
    return Item(
        id="",
        text=fill(phrasings[number % len(phrasings)], values),
        tool=turn.call,
        arguments=turn.arguments,
        phrasing="",
        says=tuple(fill(word, values) for word in turn.says),
        never=tuple(fill(word, values) for word in turn.never),
        price=fill_optional(turn.price),
        offers_tools=turn.tools,
        calls=tuple({"name": call.call, "arguments": call.arguments} for call in turn.calls),
        language=turn.language,
        in_language=turn.in_language,
        reference=fill_optional(turn.reference),
        style=fill_optional(turn.style),
        context=fill_optional(turn.fact) or "",
    )


def _phrasings(ask: str | tuple[str, ...]) -> Sequence[str]:
    return (ask,) if isinstance(ask, str) else ask
