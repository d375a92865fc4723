"""A suite's items: requests with known answers, the same for the same seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from configs.recipe import Request, Suite
from stages.errors import BadRecipe
from stages.prepare import suite_requests


@dataclass(frozen=True)
class Item:
    """One request and what answers it; `carrier` is its sentence frame: no values, no opener, no closer."""

    id: str
    text: str
    tool: str | None
    """The tool that must be called; None where words are wanted, or anything but a call."""
    arguments: dict[str, Any] | None
    """None where they are not looked at."""
    carrier: str
    says: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    price: str | None = None
    offered: bool = True
    """Whether tools are offered with it."""

    @property
    def in_words(self) -> bool:
        """Whether what is said decides."""
        return bool(self.says or self.never or self.price)


def make_items(suite: Suite) -> tuple[Item, ...]:
    """`suite.rows` items with different texts, the handlers in turn so that all are asked equally often; then its own.

    Raises:
        BadRecipe: a request names a value that is not in its `each`.
    """
    made = suite_requests(suite.grammar, suite.rows, suite.seed) if suite.grammar and suite.rows else []
    items = [Item("", r.text, r.tool, dict(r.arguments), r.carrier) for r in made]
    items += [item for request in suite.items for item in _written_out(suite.name, request)]
    return tuple(Item(**vars(item) | {"id": f"{suite.name}-{number:04d}"}) for number, item in enumerate(items))


def _written_out(suite: str, request: Request) -> Iterator[Item]:
    for ask in (request.ask,) if isinstance(request.ask, str) else request.ask:
        for values in request.each:
            try:
                yield Item(
                    id="",
                    text=ask.format_map(values),
                    tool=request.call,
                    arguments=request.arguments,
                    carrier=ask,
                    says=tuple(word.format_map(values) for word in request.says),
                    never=tuple(word.format_map(values) for word in request.never),
                    price=request.price.format_map(values) if request.price else None,
                    offered=request.tools,
                )
            except (KeyError, ValueError, IndexError) as error:
                raise BadRecipe(f"suite {suite}: {ask!r}: {error}: not a value of its `each`") from None
