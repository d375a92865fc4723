"""What a suite takes from a grammar: requests, pairs of requests in one, and filler sentences that ask for nothing."""

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from tuneline.configs.data import Source
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import ROOT, resolve
from tuneline.core.placeholders import fill
from tuneline.stages.prepare.synthesis.grammar import FEWEST_TRIES, Grammar, generate_requests, load_grammar
from tuneline.stages.prepare.synthesis.grammar_file import read_grammar_file
from tuneline.stages.prepare.synthesis.requests import Request

FILLER = ROOT / "data/synthesis/ask/en.yaml"
"""The grammar whose sentences fill a long text where the suite names none."""
TRIES = 20
"""Draws per pair of requests before a grammar is said to make too few."""


def suite_requests(grammar: Path, rows: int, seed: int) -> list[Request]:
    """Return `rows` different requests of a grammar, its handlers in turn.

    Raises:
        BadRecipe: the grammar cannot make that many.
    """
    return list(generate_requests(Source(grammar=grammar, rows=rows), random.Random(seed)))


def parallel_requests(grammar: Path, rows: int, seed: int) -> Iterator[tuple[str, str, tuple[Request, ...]]]:
    """Yield (text, phrasing, the two requests in it) for two different tools, joined as the grammar's `both` says.

    Raises:
        BadRecipe: the grammar has no `both`, one tool only, or cannot make that many.
    """
    conjunctions = read_grammar_file(resolve(grammar)).both
    if not conjunctions:
        raise BadRecipe(f"{grammar}: parallel: needs `both`, as in both: ['{{first}}; and {{second}}']")
    rng, texts = random.Random(f"{seed} parallel"), set[str]()
    bare = replace(_load(resolve(grammar)), openers=("",), closers=("",), noise=0.0)
    tools, misses = list(bare.handlers), 0
    if len(tools) < 2:
        raise BadRecipe(f"{grammar}: parallel: needs two tools, and {tools[0]} is the only one")
    for _ in range(TRIES * rows):
        first, conjunction = tools[len(texts) % len(tools)], rng.choice(conjunctions)
        second = rng.choice([tool for tool in tools if tool != first])
        requests = (bare.request(first, rng), bare.request(second, rng))
        text = _join(conjunction, requests[0].text, requests[1].text)
        misses = misses + 1 if text in texts else 0
        if not misses:
            texts.add(text)
            yield text, _join(conjunction, requests[0].phrasing, requests[1].phrasing), requests
        if len(texts) == rows:
            return
        if misses > max(FEWEST_TRIES, TRIES * len(texts)):
            break
    raise BadRecipe(
        f"{grammar}: generates only {len(texts)} different requests for two tools, not {rows}; use a lower number"
    )


def _join(conjunction: str, first: str, second: str) -> str:
    return fill(conjunction, {"first": first, "second": second})


def language_of_grammar(grammar: Path) -> str:
    """Return the ISO 639-1 code of a grammar's language."""
    return _load(resolve(grammar)).language


def filler_sentences(grammar: Path | None, rng: random.Random) -> Iterator[str]:
    """Yield sentences of a grammar's kind `sentence`, without end."""
    source = _load(resolve(grammar or FILLER))
    if "sentence" not in source.values:
        raise BadRecipe(f"{grammar}: values: long texts are filled with `sentence`, which it does not have")
    while True:
        sentence = source.value("sentence", rng)
        yield f"{sentence[:1].upper()}{sentence[1:]}."


@cache
def _load(file: Path) -> Grammar:
    """Return a grammar, read once: the larger ones take a second."""
    return load_grammar(file)
