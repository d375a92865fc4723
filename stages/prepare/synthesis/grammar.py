"""Generates requests from grammars: a few patterns a handler expand into hundreds of phrasings, seeded and offline.

A grammar is a YAML file with patterns (see `patterns.py`); `data/requests/train.yaml` is an example. Values are
patterns too and may use other values. `noise` is the share of requests whose phrasing gets and loses `fillers`, so that
a model does not rely on word order. With `catalogue:` the handlers are the tools of a catalogue, requested by their
`ask` phrases in the grammar's `language`, as in `data/synthesis/ask`.
"""

import json
import random
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from tuneline.configs.catalogue import Catalogue, Tool, load_catalogue
from tuneline.configs.data import Source
from tuneline.core.errors import BadData, BadRecipe
from tuneline.core.paths import resolve
from tuneline.stages.prepare.synthesis.grammar_file import read_grammar_file
from tuneline.stages.prepare.synthesis.patterns import MAX_EXPANSION, Choice, measure, measure_values, parse_pattern
from tuneline.stages.prepare.synthesis.requests import Request
from tuneline.stages.prepare.synthesis.schema_values import is_constrained, make_values
from tuneline.stages.prepare.synthesis.structured_values import make_arguments, plain_schema

TRIES_PER_ROW = 20
"""Requests drawn for each wanted row before a grammar counts as too small for the number of rows."""
FEWEST_TRIES = 10_000
"""Requests drawn without a new one, and at least `TRIES_PER_ROW` for each there is, after which there are no more."""

TRUTH_VALUES = ("true", "false")
VALUES_MADE = 60
"""Values of an argument whose schema has a format, a pattern or bounds."""
_values_made: dict[str, dict[str, Any]] = {}
"""Values of lists and objects by argument and schema."""
SLOT = "_"
"""Replaces each value in a phrasing: the request without values, opener and closer."""

DROPPED, ADDED, SHUFFLED = 0.35, 0.2, 0.2
"""Probabilities in a noisy phrasing: that a filler is dropped, that one is added between two words, and that all words
are shuffled."""


@dataclass(frozen=True)
class Handler:
    """The patterns of one tool and the kind of value of each argument."""

    slots: dict[str, str]
    say: tuple[Choice, ...]
    numbers: frozenset[str] = frozenset()
    """Slots whose argument is a number or a truth value instead of text."""
    structured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Slots whose argument is a list, an object or the like: its values by the texts that people write for them."""


@dataclass(frozen=True)
class Grammar:
    """Openers, closers, kinds of values and handlers of one YAML file."""

    openers: tuple[str, ...]
    closers: tuple[str, ...]
    values: dict[str, Choice]
    handlers: dict[str, Handler]
    fillers: tuple[str, ...] = ()
    noise: float = 0.0
    language: str = "en"

    @cached_property
    def phrasings(self) -> dict[str, int]:
        """The number of distinct phrasings of each handler, not counting openers and closers."""
        return {name: sum(pattern.phrasings for pattern in handler.say) for name, handler in self.handlers.items()}

    def request(self, tool: str, rng: random.Random) -> Request:
        """Return a random request for `tool`."""
        handler = self.handlers[tool]
        arguments = {
            slot: rng.choice(list(handler.structured[slot])) if slot in handler.structured else self.value(kind, rng)
            for slot, kind in handler.slots.items()
        }
        pattern = rng.choice(handler.say)
        opener, closer = rng.choice(self.openers), rng.choice(self.closers)
        capital = rng.random() < 0.4
        phrasing = pattern.expand(rng, lambda slot: f"{{{slot}}}")
        if self.noise and rng.random() < self.noise:
            phrasing = self._add_noise(phrasing, rng)
        marked = f"{opener} {phrasing}".strip() + closer
        if capital and not marked.startswith("{"):
            marked = marked[:1].upper() + marked[1:]
        text = self._fix_articles(re.sub(r"\{(\w+)\}", lambda m: arguments.get(m[1], m[0]), marked))
        mentioned = {slot: text for slot, text in arguments.items() if f"{{{slot}}}" in marked}
        typed = {
            slot: handler.structured[slot][text]
            if slot in handler.structured
            else _to_number(f"{tool}: {slot}", text)
            if slot in handler.numbers
            else text
            for slot, text in mentioned.items()
        }
        return Request(text, tool, typed, re.sub(r"\{\w+\}", SLOT, phrasing).lower())

    def _add_noise(self, phrasing: str, rng: random.Random) -> str:
        """Drop some fillers and put others between two words, but never next to a value, whose end must stay clear."""
        words = [word for word in phrasing.split(" ") if word.lower() not in self.fillers or rng.random() > DROPPED]
        if rng.random() < SHUFFLED:
            rng.shuffle(words)
        noisy = words[:1]
        for previous, word in pairwise(words):
            if "{" not in previous + word and rng.random() < ADDED:
                noisy.append(rng.choice(self.fillers))
            noisy.append(word)
        return " ".join(noisy)

    def value(self, kind: str, rng: random.Random) -> str:
        """Return a random value of a kind."""
        return self._fix_articles(self.values[kind].expand(rng, lambda name: self.value(name, rng)))

    def _fix_articles(self, text: str) -> str:
        """Replace `a`, which is all that patterns write, with `an` before a vowel in English."""
        return re.sub(r"\b([Aa]) (?=[aeioAEIO])", r"\1n ", text) if self.language == "en" else text


def load_grammar(path: Path) -> Grammar:
    """Return the grammar in a YAML file. `inherit: FILE` takes missing keys from another file in the same folder.

    Raises:
        BadData: A key is wrong, a pattern does not parse, a slot or value is not defined or contains itself.
    """
    file = read_grammar_file(path)
    values = {name: parse_pattern(text, path) for name, text in file.values.items()}
    if file.catalogue:
        catalogue = load_catalogue(path.parent / file.catalogue)
        handlers = tool_handlers(catalogue, file.language, "ask", values, file.kinds)
    else:
        handlers = {
            name: Handler(spec.slots, tuple(parse_pattern(text, path) for text in spec.say))
            for name, spec in file.handlers.items()
        }
    check_patterns(path, values, handlers)
    return Grammar(file.openers, file.closers, values, handlers, file.fillers, file.noise, file.language)


def check_patterns(path: Path | str, values: dict[str, Choice], handlers: dict[str, Handler]) -> None:
    """Raise BadData if there are no handlers, a slot or value is not defined, or a text can become endless."""
    if not handlers:
        raise BadData(f"{path}: handlers: no tool is requested")
    _check_names(path, values, handlers)
    sizes = measure_values(values, path)
    for name, handler in handlers.items():
        for pattern in handler.say:
            if measure(pattern, lambda slot, slots=handler.slots: sizes[slots[slot]]) > MAX_EXPANSION:  # type: ignore[misc]
                raise BadData(f"{path}: handlers.{name}: can become longer than {MAX_EXPANSION:,} characters")


def _to_number(key: str, text: str) -> int | float:
    """Return the number, or the truth value, that a text says. Raises BadData if it says neither."""
    if text in TRUTH_VALUES:
        return text == TRUTH_VALUES[0]
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise BadData(
            f"{key}: {text[:40]!r} is not a number, which the tool's schema requires; use another kind"
        ) from None


def _check_names(path: Path | str, values: dict[str, Choice], handlers: dict[str, Handler]) -> None:
    for name, handler in handlers.items():
        undefined = set(handler.slots.values()) - set(values)
        undefined |= {slot for pattern in handler.say for slot in pattern.slots} - set(handler.slots)
        if undefined:
            raise BadData(f"{path}: handlers.{name}: no slot or value is named {', '.join(sorted(undefined))}")
    for name, pattern in values.items():
        if undefined := set(pattern.slots) - set(values):
            raise BadData(f"{path}: values.{name}: no value is named {', '.join(sorted(undefined))}")


def tool_handlers(
    catalogue: Catalogue, language: str, which: Literal["say", "ask"], values: dict[str, Choice], kinds: dict[str, str]
) -> dict[str, Handler]:
    """Return a handler for each tool with phrases in a language. Adds kinds for enums and examples to `values`."""
    handlers = {}
    for name, tool in catalogue.tools.items():
        phrases = tool.phrases.get(language)
        if phrases and getattr(phrases, which):
            patterns = tuple(parse_pattern(text, name) for text in getattr(phrases, which))
            slots = argument_kinds(name, tool, values, kinds, {slot for pattern in patterns for slot in pattern.slots})
            handlers[name] = make_handler(name, tool, slots, patterns)
    return handlers


def argument_kinds(
    name: str, tool: Tool, values: dict[str, Choice], kinds: dict[str, str], mentioned: Collection[str]
) -> dict[str, str]:
    """Return the kind of value of each argument that is `mentioned` in a pattern.

    That is a new kind with its schema's enum, examples, or values that its format, pattern and bounds allow; what
    `kinds` says; its name; or else a topic.
    """
    slots = {}
    for slot in (slot for slot in tool.properties if slot in mentioned):
        plain = plain_schema(tool.properties[slot], tool.parameters)
        choices = _list_allowed_values(plain, f"{name}.{slot}") if plain else list(_structured_values(name, tool, slot))
        if choices:
            kind = f"{name}.{slot}"
            values[kind] = Choice(tuple((str(value),) for value in choices))
        elif plain and plain["type"] in ("integer", "number") and kinds.get(slot, slot) not in values:
            kind = "small"
        else:
            kind = kinds.get(slot, slot)
        slots[slot] = kind if kind in values else "topic"
    return slots


def _list_allowed_values(schema: dict[str, Any], seed: str) -> list[Any]:
    """Return the values that a schema lists, or some that its keywords allow; none if it says only the type."""
    if choices := schema.get("enum") or schema.get("examples"):
        return list(choices)
    if schema.get("type") == "boolean":
        return list(TRUTH_VALUES)
    return make_values(schema, random.Random(seed), VALUES_MADE) if is_constrained(schema) else []


def number_arguments(tool: Tool) -> frozenset[str]:
    """Return the arguments that the tool's schema declares as numbers or truth values."""
    plain = {slot: plain_schema(schema, tool.parameters) for slot, schema in tool.properties.items()}
    return frozenset(slot for slot, schema in plain.items() if schema and schema["type"] != "string")


def make_handler(name: str, tool: Tool, slots: dict[str, str], patterns: tuple[Choice, ...]) -> Handler:
    """Return the handler of a tool whose patterns have these slots, with the values of its lists and objects."""
    structured = {
        slot: _structured_values(name, tool, slot)
        for slot in slots
        if plain_schema(tool.properties[slot], tool.parameters) is None
    }
    return Handler(slots, patterns, number_arguments(tool), structured)


def _structured_values(name: str, tool: Tool, slot: str) -> dict[str, Any]:
    """Return values of a list, an object or the like, by their texts: the same each time.

    Raises:
        BadData: none was found; a text in its place would not be what the schema allows.
    """
    key = f"{name}.{slot} {json.dumps(tool.parameters)}"
    if key not in _values_made:  # a tool has many patterns, and each asks for them
        _values_made[key] = make_arguments(tool.parameters, slot, random.Random(f"{name}.{slot}"), VALUES_MADE)
    if values := _values_made[key]:
        return values
    raise BadData(
        f"tools.{name}.parameters.properties.{slot}: no value was found that its schema allows, so no rows can be made "
        "for it; add `examples: [VALUE, …]` to it"
    )


def generate_requests(source: Source, rng: random.Random) -> Iterator[Request]:
    """Yield `source.rows` different requests of its grammar, cycling through the handlers.

    Raises:
        BadRecipe: The grammar is too small for so many.
    """
    assert source.grammar and source.rows
    grammar = load_grammar(resolve(source.grammar))
    tools, texts, tries, misses = list(grammar.handlers), set[str](), 0, 0
    while len(texts) < source.rows:
        request = grammar.request(tools[len(texts) % len(tools)], rng)
        tries += 1
        if request.text not in texts:
            texts.add(request.text)
            misses = 0
            yield request
            continue
        misses += 1
        if tries > TRIES_PER_ROW * source.rows or misses > max(FEWEST_TRIES, TRIES_PER_ROW * len(texts)):
            raise BadRecipe(
                f"{source.grammar}: generates only {len(texts)} different requests, not {source.rows}; ask for "
                "fewer rows"
            )
