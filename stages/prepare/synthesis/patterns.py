"""Text patterns that expand at random: `(a|b|)` is a choice, `<1-28>` a whole number, `{slot}` a value."""

import random
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tuneline.core.errors import BadData

_TOKEN = re.compile(
    r"\((?P<open>)|\)(?P<close>)|\|(?P<bar>)|<(?P<low>\d+)-(?P<high>\d+)>|\{(?P<slot>\w+)\}|(?P<text>[^()|<{]+)"
)


@dataclass(frozen=True)
class Choice:
    """One of several sequences. A parsed pattern is a Choice, most often with a single option."""

    options: tuple["Sequence", ...]

    def expand(self, rng: random.Random, value: Any) -> str:
        """Return a random text of this choice; `value(name)` returns the text of a slot."""
        option = self.options[0] if len(self.options) == 1 else rng.choice(self.options)
        return "".join(part if isinstance(part, str) else part.expand(rng, value) for part in option)

    @property
    def phrasings(self) -> int:
        """The number of texts this can expand to, counting every slot as one."""
        return sum(prod(1 if isinstance(part, str) else part.phrasings for part in option) for option in self.options)

    @property
    def slots(self) -> list[str]:
        """Names of the slots, first those within inner choices."""
        parts = [part for option in self.options for part in option]
        inner = [slot for part in parts if isinstance(part, Choice) for slot in part.slots]
        return inner + [part.name for part in parts if isinstance(part, Slot)]


@dataclass(frozen=True)
class Number:
    """A random whole number from `low` to `high`, both included."""

    low: int
    high: int
    phrasings: int = 1

    def expand(self, rng: random.Random, value: Any) -> str:
        return str(rng.randint(self.low, self.high))


@dataclass(frozen=True)
class Slot:
    """A place for a value."""

    name: str
    phrasings: int = 1

    def expand(self, rng: random.Random, value: Any) -> str:
        text: str = value(self.name)
        return text


Sequence = tuple[str | Choice | Number | Slot, ...]


def parse_pattern(text: str, path: Path | str = "pattern") -> Choice:
    """Return a pattern parsed into a tree; `path` is named in errors.

    Raises:
        BadData: Brackets do not match, or there is a stray `<` or `{`.
    """
    stack: list[list[list[str | Choice | Number | Slot]]] = [[[]]]
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None or (token["close"] is not None and len(stack) == 1):
            raise BadData(f"{path}: pattern {text!r}: cannot read {text[at:]!r}")
        options = stack[-1]
        if token["open"] is not None:
            stack.append([[]])
        elif token["close"] is not None:
            stack.pop()
            stack[-1][-1].append(Choice(tuple(map(tuple, options))))
        elif token["bar"] is not None:
            options.append([])
        elif token["low"]:
            options[-1].append(Number(int(token["low"]), int(token["high"])))
        elif token["slot"]:
            options[-1].append(Slot(token["slot"]))
        else:
            options[-1].append(token["text"])
        at = token.end()
    if len(stack) > 1:
        raise BadData(f"{path}: pattern {text!r}: a ( is not closed")
    return Choice(tuple(map(tuple, stack[0])))
