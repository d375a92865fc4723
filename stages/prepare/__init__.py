"""Prepare: from sources to training and validation rows, with nothing silently wrong."""

import hashlib
import json
import random
import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from configs.catalogue import Catalogue, load_catalogue
from configs.recipe import Recipe, Source, find
from stages import artifact
from stages.artifact import Artifact
from stages.errors import BadData, BadRecipe
from stages.events import Events
from stages.fetch import open_base
from stages.prepare.grammar import Request, load_grammar
from stages.prepare.overlap import overlap
from stages.prepare.render import Renderer
from stages.prepare.rows import Row, read_rows, row_of, show_tools

TRIES_PER_ROW = 20
"""A grammar that repeats itself this often before a new request turns up is too small for the rows asked of it."""

PROGRESS_ROWS = 1000

TEMPLATE = "chat_template.jinja"
"""The tuned model's own template, beside the rows, where it is not the base's."""

HIDE_TOOLS = "{%- set tools = none %}"
"""Put before any chat template, it lists no tools, whatever a request sends; calls are still written and parsed."""


def prepare(recipe: Recipe, run: Path) -> Artifact:
    """Training and validation rows in `prepare/`, a row a line, and the catalogue as `tools.json`."""
    base = open_base(recipe)
    return artifact.make(
        run / "prepare",
        stage_version=1,
        settings=recipe.section("data"),
        needs={"fetch": base},
        build=lambda folder: _build(recipe, base.path, folder, Events(run, "prepare")),
    )


def load_tools(prepared: Path) -> Catalogue | None:
    """The catalogue a run was prepared with, or None."""
    file = prepared / "tools.json"
    return Catalogue.model_validate_json(file.read_text()) if file.exists() else None


def read_prepared(file: Path) -> list[Row]:
    """The rows of `train.jsonl` or `validation.jsonl`."""
    with file.open(encoding="utf-8") as lines:
        return [Row.model_validate_json(line) for line in lines]


def _build(recipe: Recipe, base: Path, folder: Path, events: Events) -> Mapping[str, Any]:
    data = recipe.data
    catalogue = load_catalogue(find(data.tools)) if data.tools else None
    carriers: set[str] = set()
    rows = list(_rows(recipe, catalogue, carriers))
    rng = random.Random(data.seed)
    if catalogue and data.catalogue == "shown":
        rows = [
            row if row.tools else show_tools(row, catalogue, data.distractors, data.whole_catalogue, rng)
            for row in rows
        ]
    renderer, kept, lengths, learned = Renderer(base, catalogue), [], [], []
    for done, row in enumerate(rows, 1):
        rendered = renderer(row)
        if len(rendered.ids) <= data.max_tokens:
            kept.append(row)
            lengths.append(len(rendered.ids))
            learned.append(sum(rendered.mask))
        if done % PROGRESS_ROWS == 0 or done == len(rows):
            events.progress(done, len(rows), "rows", "rendered and measured")
    if not kept:
        raise BadData(f"no row fits in data.max_tokens: {data.max_tokens}; the shortest of {len(rows)} is longer")
    validation, train = _split(kept, data.validation_share, data.validation_rows)
    rng.shuffle(train)
    _write(folder / "train.jsonl", train)
    _write(folder / "validation.jsonl", validation)
    if catalogue:
        artifact.write_atomic(folder / "tools.json", catalogue.model_dump_json())
    if data.catalogue == "learned":
        rows_template = HIDE_TOOLS + (renderer.tokenizer.chat_template or "")
        artifact.write_atomic(folder / TEMPLATE, rows_template)
    if too_long := len(rows) - len(kept):
        events.emit(
            "warning", text=f"{too_long} of {len(rows)} rows are longer than {data.max_tokens} tokens: left out"
        )
    return {
        "rows_train": len(train),
        "rows_validation": len(validation),
        "too_long": too_long,
        "tokens_mean": round(statistics.mean(lengths), 1),
        "tokens_p95": sorted(lengths)[int(0.95 * (len(lengths) - 1))],
        "learned_tokens_mean": round(statistics.mean(learned), 1),
        "overlap": {
            suite.name: overlap(carriers, (r.carrier for r in suite_requests(suite.grammar, suite.rows, suite.seed)))
            for suite in recipe.evaluate.suites
        },
    }


def suite_requests(grammar: Path, rows: int, seed: int) -> list[Request]:
    """`rows` different requests of a grammar, its handlers in turn.

    Raises:
        BadRecipe: the grammar cannot make so many.
    """
    return list(_expand(Source(grammar=grammar, rows=rows), random.Random(seed)))


def _rows(recipe: Recipe, catalogue: Catalogue | None, carriers: set[str]) -> Iterator[Row]:
    """Rows of all sources in order; carriers of those from grammars are added to `carriers`."""
    for number, source in enumerate(recipe.data.sources):
        if source.path:
            yield from read_rows(find(source.path), catalogue)
            continue
        assert source.grammar
        rng = random.Random(f"{recipe.data.seed} {number}")
        for request in _expand(source, rng):
            if catalogue is None or request.tool not in catalogue.tools:
                raise BadData(f"{source.grammar}: handlers.{request.tool}: not in the catalogue ({recipe.data.tools})")
            carriers.add(request.carrier)
            yield row_of(request, recipe.data.system, source.grammar.name)


def _expand(source: Source, rng: random.Random) -> Iterator[Request]:
    assert source.grammar and source.rows
    grammar = load_grammar(find(source.grammar))
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


def _split(rows: list[Row], share: float, most: int) -> tuple[list[Row], list[Row]]:
    """(validation, train): by a hash of the conversation, so that a row keeps its side when others are added."""
    ranked = sorted(rows, key=lambda row: hashlib.blake2b(_text(row).encode(), digest_size=8).digest())
    count = max(1, min(most, int(share * len(rows)))) if len(rows) > 1 else 0
    return ranked[:count], ranked[count:]


def _text(row: Row) -> str:
    return json.dumps([message.content for message in row.messages if message.role == "user"])


def _write(file: Path, rows: Iterable[Row]) -> None:
    artifact.write_atomic(file, "".join(row.model_dump_json(exclude_none=True) + "\n" for row in rows))
