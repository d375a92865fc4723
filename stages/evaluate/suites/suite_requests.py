"""What tests take from a grammar: requests, two requests in one, and sentences that ask for nothing."""

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from tuneline.configs.data import Source
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import ROOT, find
from tuneline.stages.prepare.synthesis.grammar import Grammar, Request, expand, load_grammar, read_yaml

FILLER = ROOT / "data/synthesis/ask/en.yaml"
"""Whose sentences fill a long text unless told otherwise."""
TRIES = 20


def suite_requests(grammar: Path, rows: int, seed: int) -> list[Request]:
    """`rows` different requests of a grammar, its handlers in turn.

    Raises:
        BadRecipe: the grammar cannot make so many.
    """
    return list(expand(Source(grammar=grammar, rows=rows), random.Random(seed)))


def parallel_requests(grammar: Path, rows: int, seed: int) -> Iterator[tuple[str, str, tuple[Request, ...]]]:
    """(text, carrier, the two requests in it) for two different tools, joined as the grammar's `both` says.

    Raises:
        BadRecipe: it has no `both`, or cannot make so many.
    """
    joined = _written(grammar).get("both")
    if not joined:
        raise BadRecipe(f"{grammar}: parallel: needs `both`, as in both: ['{{first}}; and {{second}}']")
    rng, seen = random.Random(f"{seed} parallel"), set[str]()
    bare = replace(_grammar(find(grammar)), openers=("",), closers=("",), noise=0.0)
    tools = list(bare.handlers)
    for _ in range(TRIES * rows):
        first, frame = tools[len(seen) % len(tools)], rng.choice(joined)
        second = rng.choice([tool for tool in tools if tool != first])
        requests = (bare.request(first, rng), bare.request(second, rng))
        text = frame.format(first=requests[0].text, second=requests[1].text)
        if text not in seen:
            seen.add(text)
            yield text, frame.format(first=requests[0].carrier, second=requests[1].carrier), requests
        if len(seen) == rows:
            return
    raise BadRecipe(f"{grammar}: makes {len(seen)} different requests of two, not {rows}; ask for fewer")


def language_of_grammar(grammar: Path) -> str:
    """ISO 639-1."""
    return _grammar(find(grammar)).language


def filler(grammar: Path | None, rng: random.Random) -> Iterator[str]:
    """Sentences of a grammar's kind `sentence`, without end."""
    made = _grammar(find(grammar or FILLER))
    while True:
        sentence = made.value("sentence", rng)
        yield f"{sentence[0].upper()}{sentence[1:]}."


@cache
def _grammar(file: Path) -> Grammar:
    """Read once: the larger ones take a second."""
    return load_grammar(file)


def _written(grammar: Path) -> dict[str, Any]:
    raw = read_yaml(find(grammar))
    return read_yaml(find(grammar).parent / raw["inherit"]) | raw if "inherit" in raw else raw
