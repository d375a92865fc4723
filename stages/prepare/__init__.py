"""Stage `prepare`: turns the recipe's data sources into checked training and validation rows."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import load_catalogue
from tuneline.configs.data import Data
from tuneline.configs.evaluation import Evaluate
from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.artifacts import SCRATCH, Artifact
from tuneline.core.errors import BadData
from tuneline.core.events import Events
from tuneline.core.files import write_atomic
from tuneline.core.paths import resolve
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.prepare.checks.overlap import write_phrasings
from tuneline.stages.prepare.checks.problems import Findings
from tuneline.stages.prepare.checks.style_passages import refuse_few_passages
from tuneline.stages.prepare.examination import Examination
from tuneline.stages.prepare.prepared_run import STOP_TOKENS, TEMPLATE
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.prepare.rendering.stop_tokens import added_stop_id, stop_token_ids
from tuneline.stages.prepare.rendering.tool_preselector import (
    PRESELECTOR_FILE,
    Preselector,
    choose_tool_display,
    measure_recall,
)
from tuneline.stages.prepare.requirements import compute_verdict, describe_loss
from tuneline.stages.prepare.row_store import RowStore
from tuneline.stages.prepare.source_summary import summarize
from tuneline.stages.prepare.synthesis.synthetic_rows import make_synthesizer
from tuneline.stages.prepare.validation_split import single_document_labels

PROGRESS_ROWS = 1000
ERRORS_SHOWN = 10

HIDE_TOOLS = "{%- set tools = none %}"
"""Put before a chat template, it lists no tools, whatever a request sends. Calls are still written and parsed."""

VERDICT = "validation.json"


def prepare(recipe: Recipe, run: Path) -> Artifact:
    """Write training and validation rows to `prepare/`, one JSON line a row, with the catalogue and the verdict.

    Raises:
        BadData: Rows with errors, or a requirement that is not met; `prepare/validation.json` lists all of them.
    """
    base = open_base(recipe)
    return artifacts.make(
        run / "prepare",
        stage_version=3,
        settings=recipe.section("data") | recipe.template_settings(),
        needs={"fetch": base},
        build=lambda folder: _build(recipe, base.path, folder, Events(run, "prepare")),
    )


def _build(recipe: Recipe, base: Path, folder: Path, events: Events) -> Mapping[str, Any]:
    data = recipe.data
    catalogue = load_catalogue(resolve(data.tools)) if data.tools else None
    renderer = Renderer(base, catalogue, name=recipe.template)
    display = choose_tool_display(data, catalogue, renderer)
    preselector = Preselector.from_catalogue(catalogue) if catalogue and display == "nearest" else None
    synthesize = make_synthesizer(data, catalogue)
    examination = Examination(data, catalogue, renderer, synthesize=synthesize, preselector=preselector)
    store = _examine(examination, folder / SCRATCH / "rows.jsonl", events)
    findings = examination.finish()
    examination.check_sides()
    verdict = compute_verdict(examination)
    write_atomic(folder / VERDICT, json.dumps(verdict, ensure_ascii=False, indent=1))
    _refuse(findings, verdict["required"], len(store), data)
    if loss := describe_loss(verdict):
        events.emit("warning", text=loss)
    _warn(findings, events)
    train, validation = _write_rows(store, examination, recipe.evaluate, folder, events)
    if tools := examination.toolbox.catalogue:
        write_atomic(folder / "tools.json", tools.model_dump_json())
    if data.catalogue == "learned" or not renderer.is_base_template:
        prefix = HIDE_TOOLS if data.catalogue == "learned" else ""
        write_atomic(folder / TEMPLATE, prefix + renderer.template)
    if added_stop_id(renderer.tokenizer) is not None:
        write_atomic(folder / STOP_TOKENS, json.dumps(stop_token_ids(renderer.tokenizer)))
    if preselector:
        write_atomic(folder / PRESELECTOR_FILE, json.dumps(preselector.documents, ensure_ascii=False))
    write_phrasings(folder, examination.phrasings)
    return {
        "rows_train": train,
        "rows_validation": validation,
        "too_long": findings.counts["too_long"],
        **_token_metrics(examination),
        "warnings": findings.count("warning"),
        "sources": summarize(examination.sources),
        "tools_shown": display,
        "tools_recall": measure_recall(preselector, catalogue) if preselector and catalogue else None,
    }


def _examine(examination: Examination, scratch: Path, events: Events) -> RowStore:
    store = RowStore(scratch, examination.data.seed)
    for count, examined in enumerate(examination.rows(), 1):
        store.add(examined)
        if count % PROGRESS_ROWS == 0:
            events.progress(count, count, "rows", "read, checked and measured")
    return store


def _write_rows(
    store: RowStore, examination: Examination, evaluation: Evaluate, folder: Path, events: Events
) -> tuple[int, int]:
    """Write both files and return the numbers of (training, validation) rows."""
    train, validation = store.split(examination.data, examination.duplicates.duplicate_of)
    refuse_few_passages(evaluation, examination.styles, store.split_keys.count_labels(validation))
    for label in () if examination.data.validation else single_document_labels(store.split_keys):
        events.emit("warning", text=f"all rows of {label or 'no label'} come from one document: it is split itself")
    if not train or not validation:
        side = "train on" if not train else "validate with"
        raise BadData(f"data: {len(store)} rows leave none to {side}: add rows, or name a file in data.validation")
    examination.rng.shuffle(train)
    store.write(folder / "train.jsonl", train)
    store.write(folder / "validation.jsonl", validation)
    return len(train), len(validation)


def _token_metrics(examination: Examination) -> dict[str, Any]:
    lengths = sorted(examination.lengths)
    loss_tokens = sum(source.loss_tokens for source in examination.sources)
    return {
        "tokens_mean": round(statistics.mean(lengths), 1),
        "tokens_p95": lengths[int(0.95 * (len(lengths) - 1))],
        "learned_tokens_mean": round(loss_tokens / len(lengths), 1),
    }


def _refuse(findings: Findings, requirements: list[dict[str, Any]], rows: int, data: Data) -> None:
    errors = findings.count("error")
    lines = [str(problem) for problem in findings.examples_of("error")[:ERRORS_SHOWN]]
    if errors > len(lines):
        lines.append(f"… {errors - len(lines)} errors more; `tuneline validate RECIPE` lists them, `--fix` fixes many")
    lines += [
        f"data.require: {requirement['measure']}: {requirement['found']:g}, required {requirement['wanted']}"
        for requirement in requirements
        if not requirement["met"]
    ]
    if lines:
        raise BadData("\n".join(lines))
    if not rows:
        too_long = findings.counts["too_long"]
        raise BadData(
            f"no row fits in data.max_tokens: {data.max_tokens}; the shortest of {too_long} is longer"
            if too_long
            else "data.sources: no row is usable for training"
        )


def _warn(findings: Findings, events: Events) -> None:
    """Emit one warning for each kind of problem, with its count and its first example."""
    for kind, count in findings.counts.items():
        first = findings.examples[kind][0]
        if first.severity == "warning":
            events.emit("warning", text=f"{count} × {kind.replace('_', ' ')}, the first: {first}")
