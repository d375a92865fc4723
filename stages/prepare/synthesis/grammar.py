"""Requests from grammars: a few patterns per handler that expand into hundreds of phrasings, seeded and offline.

A pattern is text with `(a|b|)` for a choice, `<1-28>` for a whole number and `{slot}` for a value. Values are
patterns too and may use other values. `noise` is the share of requests in whose carrier `fillers` come and go, so that
what is learned rests on no word order. `data/requests/train.yaml` is an example. With `catalogue:` the handlers are a
catalogue's tools, asked for by their `ask` phrases in the grammar's `language`, as in `data/synthesis/ask`.
"""

import random
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Literal

import yaml

from tuneline.configs.catalogue import Catalogue, Tool, load_catalogue
from tuneline.configs.data import Source
from tuneline.configs.yaml_loader import YAML_LOADER
from tuneline.core.errors import BadData, BadRecipe
from tuneline.core.paths import resolve

TRIES_PER_ROW = 20
"""A grammar that repeats itself this often before a new request turns up is too small for the rows asked of it."""

SLOT = "_"
"""What stands for a value in a carrier: the request without values, opener and closer."""

DROPPED, ADDED, SHUFFLED = 0.35, 0.2, 0.2
"""How likely a filler goes from a noisy carrier, one comes between two of its words, and all change places."""

_TOKEN = re.compile(
    r"\((?P<open>)|\)(?P<close>)|\|(?P<bar>)|<(?P<low>\d+)-(?P<high>\d+)>|\{(?P<slot>\w+)\}|(?P<text>[^()|<{]+)"
)


@dataclass(frozen=True)
class Request:
    """One request and the call that answers it; `carrier` is its frame: values as `_`, no opener, no closer."""

    text: str
    tool: str
    arguments: dict[str, Any]
    carrier: str


@dataclass(frozen=True)
class Choice:
    """One of several sequences; a pattern is a Choice with, most often, a single option."""

    options: tuple["Sequence", ...]

    def expand(self, rng: random.Random, value: Any) -> str:
        """Text for this choice; `value(name)` gives the text of a slot."""
        option = self.options[0] if len(self.options) == 1 else rng.choice(self.options)
        return "".join(part if isinstance(part, str) else part.expand(rng, value) for part in option)

    @property
    def phrasings(self) -> int:
        """How many texts this can become, every slot counted as one."""
        return sum(prod(1 if isinstance(part, str) else part.phrasings for part in option) for option in self.options)


@dataclass(frozen=True)
class Number:
    """A whole number from `low` to `high`, both included."""

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


@dataclass(frozen=True)
class Handler:
    """The patterns of one tool and the kind of value each argument takes."""

    slots: dict[str, str]
    say: tuple[Choice, ...]
    numbers: frozenset[str] = frozenset()
    """Slots whose argument is a whole number, not text."""


@dataclass(frozen=True)
class Grammar:
    """Openers, closers, kinds of values and the handlers of one YAML file."""

    openers: tuple[str, ...]
    closers: tuple[str, ...]
    values: dict[str, Choice]
    handlers: dict[str, Handler]
    fillers: tuple[str, ...] = ()
    noise: float = 0.0
    language: str = "en"

    @cached_property
    def phrasings(self) -> dict[str, int]:
        """Distinct carriers a handler's patterns can make, openers and closers not counted."""
        return {name: sum(pattern.phrasings for pattern in h.say) for name, h in self.handlers.items()}

    def request(self, tool: str, rng: random.Random) -> Request:
        """A random request for `tool`."""
        handler = self.handlers[tool]
        arguments = {slot: self._value(kind, rng) for slot, kind in handler.slots.items()}
        pattern = rng.choice(handler.say)
        opener, closer = rng.choice(self.openers), rng.choice(self.closers)
        capital = rng.random() < 0.4
        carrier = pattern.expand(rng, lambda slot: f"{{{slot}}}")
        if self.noise and rng.random() < self.noise:
            carrier = self._noisy(carrier, rng)
        marked = f"{opener} {carrier}".strip() + closer
        if capital and not marked.startswith("{"):
            marked = marked[0].upper() + marked[1:]
        text = self._articles(re.sub(r"\{(\w+)\}", lambda m: arguments[m[1]], marked))
        said = {slot: text for slot, text in arguments.items() if f"{{{slot}}}" in marked}
        typed = {slot: int(text) if slot in handler.numbers else text for slot, text in said.items()}
        return Request(text, tool, typed, re.sub(r"\{\w+\}", SLOT, carrier).lower())

    def _noisy(self, marked: str, rng: random.Random) -> str:
        """Some fillers dropped, others put between two words (never beside a value, whose end must stay clear)."""
        words = [word for word in marked.split(" ") if word.lower() not in self.fillers or rng.random() > DROPPED]
        if rng.random() < SHUFFLED:
            rng.shuffle(words)
        noisy = words[:1]
        for before, word in pairwise(words):
            if "{" not in before + word and rng.random() < ADDED:
                noisy.append(rng.choice(self.fillers))
            noisy.append(word)
        return " ".join(noisy)

    def value(self, kind: str, rng: random.Random) -> str:
        """A random value of a kind."""
        return self._value(kind, rng)

    def _value(self, kind: str, rng: random.Random) -> str:
        return self._articles(self.values[kind].expand(rng, lambda name: self._value(name, rng)))

    def _articles(self, text: str) -> str:
        """English wants `an` before a vowel; patterns only write `a`."""
        return re.sub(r"\b([Aa]) (?=[aeioAEIO])", r"\1n ", text) if self.language == "en" else text


def load_grammar(path: Path) -> Grammar:
    """The grammar in a YAML file; `inherit: FILE` takes what it lacks from a file beside it.

    Raises:
        BadData: a pattern that does not parse, or a slot or value nobody defines.
    """
    raw = read_yaml(path)
    if "inherit" in raw:
        raw = read_yaml(path.parent / raw["inherit"]) | raw
    values = {name: parse(text, path) for name, text in raw["values"].items()}
    if "catalogue" in raw:
        catalogue = load_catalogue(path.parent / raw["catalogue"])
        handlers = tool_handlers(catalogue, raw["language"], "ask", values, raw.get("kinds", {}))
    else:
        handlers = {
            name: Handler(spec["slots"], tuple(parse(text, path) for text in spec["say"]))
            for name, spec in raw["handlers"].items()
        }
    known = set(values)
    for name, handler in handlers.items():
        unknown = set(handler.slots.values()) - known
        unknown |= {slot for pattern in handler.say for slot in _slots(pattern)} - set(handler.slots)
        if unknown:
            raise BadData(f"{path}: handlers.{name}: no slot or value is called {', '.join(sorted(unknown))}")
    for name, pattern in values.items():
        if unknown := set(_slots(pattern)) - known:
            raise BadData(f"{path}: values.{name}: no value is called {', '.join(sorted(unknown))}")
    fillers, noise = tuple(raw.get("fillers", ())), float(raw.get("noise", 0))
    if noise and not fillers:
        raise BadData(f"{path}: noise: {noise:g}: needs a list of fillers")
    if wrong := [filler for filler in fillers if not isinstance(filler, str)]:
        raise BadData(f"{path}: fillers: {wrong[0]!r} is no word to YAML; put it in quotes")
    language = raw.get("language", "en")
    return Grammar(tuple(raw["openers"]), tuple(raw["closers"]), values, handlers, fillers, noise, language)


def read_yaml(path: Path) -> dict[str, Any]:
    """A grammar's file as it is written."""
    read: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=YAML_LOADER)
    return read


def tool_handlers(
    catalogue: Catalogue, language: str, which: Literal["say", "ask"], values: dict[str, Choice], kinds: dict[str, str]
) -> dict[str, Handler]:
    """A handler for each tool that has phrases in a language; values for enums and examples join `values`."""
    handlers = {}
    for name, tool in catalogue.tools.items():
        phrases = tool.phrases.get(language)
        if phrases and getattr(phrases, which):
            patterns = tuple(parse(text, name) for text in getattr(phrases, which))
            said = {slot for pattern in patterns for slot in _slots(pattern)}
            handlers[name] = Handler(slots_of(name, tool, values, kinds, said), patterns, whole_numbers(tool))
    return handlers


def slots_of(
    name: str, tool: Tool, values: dict[str, Choice], kinds: dict[str, str], said: Collection[str]
) -> dict[str, str]:
    """The kind of value of each argument: its schema's enum or examples, what `kinds` says, its name, or a topic."""
    slots = {}
    for slot in (slot for slot in tool.properties if slot in said):
        given = tool.properties[slot].get("enum") or tool.properties[slot].get("examples")
        if given:
            kind = f"{name}.{slot}"
            values[kind] = Choice(tuple((str(value),) for value in given))
        elif tool.properties[slot].get("type") in ("integer", "number") and kinds.get(slot, slot) not in values:
            kind = "small"
        else:
            kind = kinds.get(slot, slot)
        slots[slot] = kind if kind in values else "topic"
    return slots


def whole_numbers(tool: Tool) -> frozenset[str]:
    """Arguments that are numbers to the tool's schema."""
    return frozenset(slot for slot, schema in tool.properties.items() if schema.get("type") in ("integer", "number"))


def expand(source: Source, rng: random.Random) -> Iterator[Request]:
    """`source.rows` different requests of its grammar, the handlers in turn.

    Raises:
        BadRecipe: the grammar cannot make so many.
    """
    assert source.grammar and source.rows
    grammar = load_grammar(resolve(source.grammar))
    tools, seen, tries = list(grammar.handlers), set[str](), 0
    while len(seen) < source.rows:
        request = grammar.request(tools[len(seen) % len(tools)], rng)
        tries += 1
        if request.text not in seen:
            seen.add(request.text)
            yield request
        elif tries > TRIES_PER_ROW * source.rows:
            raise BadRecipe(
                f"{source.grammar}: makes {len(seen)} different requests, not {source.rows}; ask for fewer rows"
            )


def parse(text: str, path: Path | str = "pattern") -> Choice:
    """A pattern's text as a tree.

    Raises:
        BadData: brackets that do not match, or a stray `<` or `{`.
    """
    stack: list[list[list[str | Choice | Number | Slot]]] = [[[]]]
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None or (token["close"] is not None and len(stack) == 1):
            raise BadData(f"{path}: pattern {text!r}: cannot read {text[at:]!r}")
        here = stack[-1]
        if token["open"] is not None:
            stack.append([[]])
        elif token["close"] is not None:
            stack.pop()
            stack[-1][-1].append(Choice(tuple(map(tuple, here))))
        elif token["bar"] is not None:
            here.append([])
        elif token["low"]:
            here[-1].append(Number(int(token["low"]), int(token["high"])))
        elif token["slot"]:
            here[-1].append(Slot(token["slot"]))
        else:
            here[-1].append(token["text"])
        at = token.end()
    if len(stack) > 1:
        raise BadData(f"{path}: pattern {text!r}: a ( is not closed")
    return Choice(tuple(map(tuple, stack[0])))


def _slots(pattern: Choice) -> list[str]:
    parts = [part for option in pattern.options for part in option]
    inner = [slot for part in parts if isinstance(part, Choice) for slot in _slots(part)]
    return inner + [part.name for part in parts if isinstance(part, Slot)]
