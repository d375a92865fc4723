"""Prepare: from sources to training and validation rows, with nothing silently wrong."""

import json
import statistics
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import Catalogue, load_catalogue
from tuneline.configs.data import Data
from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.artifacts import SCRATCH, Artifact
from tuneline.core.errors import BadData
from tuneline.core.events import Events
from tuneline.core.paths import resolve
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.prepare.checks.overlap import write_carriers
from tuneline.stages.prepare.checks.problems import Findings
from tuneline.stages.prepare.checks.requirements import verdict
from tuneline.stages.prepare.examination import Entry, Examination
from tuneline.stages.prepare.rendering import tool_preselector
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.prepare.rendering.tool_preselector import Preselector, recall, shown_as
from tuneline.stages.prepare.rows import Row
from tuneline.stages.prepare.synthesis.synthetic_rows import examples
from tuneline.stages.prepare.validation_split import Places, sides, single_documents

PROGRESS_ROWS = 1000
ERRORS_TOLD = 10

TEMPLATE = "chat_template.jinja"
"""The tuned model's own template, beside the rows, where it is not the base's."""

HIDE_TOOLS = "{%- set tools = none %}"
"""Put before any chat template, it lists no tools, whatever a request sends; calls are still written and parsed."""

VERDICT = "validation.json"


def prepare(recipe: Recipe, run: Path) -> Artifact:
    """Training and validation rows in `prepare/`, a row a line, the catalogue as `tools.json`, and what was checked.

    Raises:
        BadData: rows with errors, or a requirement that is not met; `prepare/validation.json` has all of them.
    """
    base = open_base(recipe)
    return artifacts.make(
        run / "prepare",
        stage_version=2,
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
    catalogue = load_catalogue(resolve(data.tools)) if data.tools else None
    renderer = Renderer(base, catalogue)
    way = shown_as(data, catalogue, renderer)
    selector = Preselector.of(catalogue) if catalogue and way == "nearest" else None
    examined = Examination(data, catalogue, renderer, made=examples(data, catalogue), selector=selector)
    kept = _Kept(folder / SCRATCH / "rows.jsonl", data.seed)
    learned = 0
    for done, entry in enumerate(examined.rows(), 1):
        kept.add(entry)
        learned += entry.learned
        if done % PROGRESS_ROWS == 0:
            events.progress(done, done, "rows", "read, checked and measured")
    findings = examined.finish()
    artifacts.write_atomic(folder / VERDICT, json.dumps(verdict(examined), ensure_ascii=False, indent=1))
    _refuse(findings, verdict(examined)["required"], len(kept.places), data)
    _warn(findings, events)
    train, validation = kept.split(examined, events)
    examined.rng.shuffle(train)
    kept.write(folder / "train.jsonl", train)
    kept.write(folder / "validation.jsonl", validation)
    if tools := examined.toolbox.catalogue:
        artifacts.write_atomic(folder / "tools.json", tools.model_dump_json())
    if data.catalogue == "learned" or not renderer.is_own:
        hidden = HIDE_TOOLS if data.catalogue == "learned" else ""
        artifacts.write_atomic(folder / TEMPLATE, hidden + renderer.template)
    if selector:
        artifacts.write_atomic(folder / tool_preselector.FILE, json.dumps(selector.documents, ensure_ascii=False))
    write_carriers(folder, examined.carriers)
    lengths = sorted(examined.lengths)
    return {
        "rows_train": len(train),
        "rows_validation": len(validation),
        "too_long": findings.counts["too_long"],
        "tokens_mean": round(statistics.mean(lengths), 1),
        "tokens_p95": lengths[int(0.95 * (len(lengths) - 1))],
        "learned_tokens_mean": round(learned / len(lengths), 1),
        "warnings": findings.count("warning"),
        "sources": examined.composition(),
        "tools_shown": way,
        "tools_recall": recall(selector, catalogue) if selector and catalogue else None,
    }


class _Kept:
    """Rows on disk, and in memory a few numbers for each, so that memory does not follow the size of the data."""

    def __init__(self, file: Path, seed: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._out = file, file.open("wb")
        self._offsets, self._parts = array("Q"), array("I")
        self._of_files = array("Q")
        """By the number of a row of a file, its number here plus one, or 0 if it is not here."""
        self.places = Places(seed)

    def add(self, entry: Entry) -> None:
        self.places.add(entry.row, entry.label)
        if entry.place is not None:
            self._of_files.extend([0] * (entry.place - len(self._of_files)))
            self._of_files.append(len(self.places))
        self._parts.append(entry.part)
        self._offsets.append(self._out.tell())
        self._out.write((entry.line or entry.row.model_dump_json(exclude_none=True).encode()) + b"\n")

    def split(self, examined: Examination, events: Events) -> tuple[list[int], list[int]]:
        """(training, validation) as numbers of rows; duplicates are on the side of the first, or left out."""
        data, left_out = examined.data, set[int]()
        for place in sorted(examined.twins):
            row, first = self._number(place), self._number(examined.twins[place])
            if row is not None and first is not None:
                self.places.follow(row, first)
                if data.duplicates == "drop":
                    left_out.add(row)
        for label in single_documents(self.places):
            events.emit("warning", text=f"all rows of {label or 'no label'} come from one document: it is split itself")
        held = sides(self.places, data.validation_share, data.validation_rows, left_out)
        weights = [part.weight for part in examined.parts]
        train = [
            number
            for number in range(len(held))
            if not held[number] and number not in left_out
            for _ in range(_times(self.places.own[number], weights[self._parts[number]]))
        ]
        return train, [number for number, one in enumerate(held) if one]

    def _number(self, place: int) -> int | None:
        """Of a row of a file, if it was kept."""
        here = self._of_files[place] if 0 <= place < len(self._of_files) else 0
        return here - 1 if here else None

    def write(self, file: Path, numbers: Sequence[int]) -> None:
        """Rows in this order; a crash leaves a part of a file, which counts for nothing without a manifest."""
        self._out.flush()
        with self._file.open("rb") as rows, file.open("wb") as out:
            for number in numbers:
                rows.seek(self._offsets[number])
                out.write(rows.readline())


def _times(key: int, weight: float) -> int:
    """How often a row is seen: the whole part of the weight, and once more for a share of rows, by their hash."""
    whole, share = divmod(weight, 1.0)
    return int(whole) + ((key * 0x9E3779B97F4A7C15) % 2**64 < share * 2**64)


def _refuse(findings: Findings, wanted: list[dict[str, Any]], rows: int, data: Data) -> None:
    errors = findings.count("error")
    told = [str(problem) for problem in findings.of("error")[:ERRORS_TOLD]]
    if errors > len(told):
        told.append(f"… {errors - len(told)} errors more; `tuneline validate RECIPE` lists them, `--fix` mends many")
    told += [f"data.require: {one['measure']}: {one['found']:g}, wanted {one['wanted']}" for one in _unmet(wanted)]
    if told:
        raise BadData("\n".join(told))
    if not rows:
        too_long = findings.counts["too_long"]
        raise BadData(
            f"no row fits in data.max_tokens: {data.max_tokens}; the shortest of {too_long} is longer"
            if too_long
            else "data.sources: no row can be learned from"
        )


def _unmet(wanted: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (one for one in wanted if not one["met"])


def _warn(findings: Findings, events: Events) -> None:
    """One warning a kind, with how many there are and the first."""
    for kind, count in findings.counts.items():
        first = findings.examples[kind][0]
        if first.severity == "warning":
            events.emit("warning", text=f"{count} × {kind.replace('_', ' ')}, the first: {first}")
