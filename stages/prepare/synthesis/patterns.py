"""Text patterns that expand at random: `(a|b|)` is a choice, `<1-28>` a whole number, `{slot}` a value."""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tuneline.core.errors import BadData
from tuneline.core.user_files import MAX_DEPTH

MAX_NUMBER = 10**15
MAX_EXPANSION = 100_000
"""Characters and parts of the longest text that a pattern can expand to. A request has about a hundred."""
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
        BadData: Brackets do not match or are too deep, there is a stray `<` or `{`, or a range is empty.
    """
    stack: list[list[list[str | Choice | Number | Slot]]] = [[[]]]
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None or (token["close"] is not None and len(stack) == 1):
            raise BadData(f"{path}: pattern {text[:60]!r}: cannot read {text[at:][:60]!r}")
        options = stack[-1]
        if token["open"] is not None:
            stack.append([[]])
            if len(stack) > MAX_DEPTH:
                raise BadData(f"{path}: pattern {text[:60]!r}: more than {MAX_DEPTH} choices inside each other")
        elif token["close"] is not None:
            stack.pop()
            stack[-1][-1].append(Choice(tuple(map(tuple, options))))
        elif token["bar"] is not None:
            options.append([])
        elif token["low"]:
            options[-1].append(_parse_range(token, path))
        elif token["slot"]:
            options[-1].append(Slot(token["slot"]))
        else:
            options[-1].append(token["text"])
        at = token.end()
    if len(stack) > 1:
        raise BadData(f"{path}: pattern {text[:60]!r}: a ( is not closed")
    return Choice(tuple(map(tuple, stack[0])))


def _parse_range(token: re.Match[str], path: Path | str) -> Number:
    digits = max(len(token["low"]), len(token["high"]))
    low, high = (0, -1) if digits > len(str(MAX_NUMBER)) else (int(token["low"]), int(token["high"]))
    if not low <= high <= MAX_NUMBER:
        raise BadData(f"{path}: {token[0][:60]}: a range is from a number to a higher one, at most {MAX_NUMBER:,}")
    return Number(low, high)


def measure_values(values: Mapping[str, Choice], path: Path | str) -> dict[str, int]:
    """Return for each value the characters and parts of the longest text it expands to; every slot is a value.

    Raises:
        BadData: a value contains itself, or can become longer than `MAX_EXPANSION`.
    """
    sizes: dict[str, int] = {}

    def size_of(name: str, inside: tuple[str, ...] = ()) -> int:
        if name in inside or len(inside) > MAX_DEPTH:
            raise BadData(f"{path}: values.{name}: contains itself: {' → '.join([*inside[-8:], name])}")
        if name not in sizes:
            sizes[name] = measure(values[name], lambda slot: size_of(slot, (*inside, name)))
            if sizes[name] > MAX_EXPANSION:
                raise BadData(f"{path}: values.{name}: can become longer than {MAX_EXPANSION:,} characters")
        return sizes[name]

    return {name: size_of(name) for name in values}


def measure(pattern: Choice, slot_size: Callable[[str], int]) -> int:
    """Return the characters and parts of the longest text of a pattern; `slot_size(name)` are those of a slot."""
    return max(sum(_measure_part(part, slot_size) for part in option) for option in pattern.options) + 1


def _measure_part(part: "str | Choice | Number | Slot", slot_size: Callable[[str], int]) -> int:
    if isinstance(part, str):
        return 1 + len(part)
    if isinstance(part, Choice):
        return measure(part, slot_size)
    return len(str(part.high)) if isinstance(part, Number) else slot_size(part.name)
