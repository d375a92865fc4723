"""The evaluate stage: the base and every tuned file answer the same items, through the engine that serves them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.artifacts import Artifact, verify_files
from tuneline.core.errors import BadRecipe
from tuneline.core.events import Events
from tuneline.core.files import write_atomic
from tuneline.stages.evaluate.answers import read_answers_of
from tuneline.stages.evaluate.clients.external_targets import ask_external_targets
from tuneline.stages.evaluate.clients.lm_eval_tasks import benchmark_table, require_lm_eval
from tuneline.stages.evaluate.clients.local_targets import ask_local_targets
from tuneline.stages.evaluate.clients.target_engines import Engines, substitute_warning
from tuneline.stages.evaluate.engine_versions import describe_engine
from tuneline.stages.evaluate.scoring.baseline_classifier import classifier_table
from tuneline.stages.evaluate.scoring.perplexity import perplexity_table
from tuneline.stages.evaluate.scoring.preselector_recall import recall_table
from tuneline.stages.evaluate.scoring.scoreboard import AnswersByTarget, all_tables
from tuneline.stages.evaluate.suites.item import Suites
from tuneline.stages.evaluate.suites.run_context import RunContext, open_run_context
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.evaluate.targets import BASE, hash_served_files, served_target, target_files
from tuneline.stages.evaluate.verdicts.gate import decide_gate, later_demands
from tuneline.stages.evaluate.verdicts.suite_demands import Evidence
from tuneline.stages.evaluate.verdicts.task_verdicts import VERDICTS
from tuneline.stages.prepare.checks.overlap import count_overlap, count_seen_in_training, read_phrasings
from tuneline.stages.prepare.prepared_run import load_tools
from tuneline.stages.run_artifacts import open_stage


def evaluate(recipe: Recipe, run: Path) -> Artifact:
    """Return the finished evaluation of a converted run: tables and the gate's decision as metrics.

    The answers are in `evaluate/answers/SUITE/TARGET.jsonl`, the verdicts in `evaluate/verdicts.json`. A gate that does
    not pass still finishes the artifact.
    """
    prepared, converted = open_stage(run, "prepare"), open_stage(run, "convert")

    def build(folder: Path) -> dict[str, Any]:
        run_context, events = open_run_context(recipe, run), Events(run, "evaluate")
        suites = {suite.name: make_items(suite, run_context) for suite in recipe.evaluate.suites}
        files = target_files(recipe, converted.path)
        _refuse(recipe, run_context, files, suites)
        hashes = {target: verify_files(converted, file.name)[file.name] for target, file in files.items()}
        served_files = hash_served_files(run, recipe.serve)
        if warning := substitute_warning(recipe):
            events.emit("warning", text=warning)
        with Engines(recipe, run, folder) as engines:
            ask_local_targets(recipe, run_context, files, suites, folder, events, engines)
        ask_external_targets(recipe, run_context, suites, folder, events)
        with Engines(recipe, run, folder) as engines:
            benchmarks = benchmark_table(recipe, files, folder, events, engines)
        perplexity = perplexity_table(recipe, prepared.path, files, folder, events)
        answers = _read_all_answers(recipe, files, suites, folder)
        seen_items = _seen_in_training(prepared.path, suites)
        evidence = _gather_evidence(recipe, run, prepared, converted, answers, seen_items)
        gate, verdicts = decide_gate(recipe.evaluate, evidence)
        write_atomic(folder / VERDICTS, verdicts.model_dump_json(indent=1))
        confidence = recipe.evaluate.confidence
        return all_tables(answers, confidence) | {
            "gate": gate | {"files": served_files, "later": later_demands(recipe.evaluate)},
            "files": {target: {"file": files[target].name, "sha256": digest} for target, digest in hashes.items()},
            "engines": _describe_engines(recipe, files),
            "classifier": classifier_table(prepared.path, suites, confidence),
            "perplexity": perplexity,
            "standard": benchmarks,
            "preselector": recall_table(recipe.evaluate.suites, run_context, suites, confidence),
            "overlap": _overlap_table(prepared.path, suites, seen_items),
        }

    settings, needs = stage_settings(recipe), {"prepare": prepared, "convert": converted}
    return artifacts.make(run / "evaluate", stage_version=6, settings=settings, needs=needs, build=build)


def stage_settings(recipe: Recipe) -> dict[str, Any]:
    """Return what the result depends on: also what is served, which the gate is about.

    Left out are what an external model costs and which key pays for it.
    """
    section = recipe.section("evaluate")["evaluate"]
    targets = [
        {key: value for key, value in target.items() if not key.startswith(("usd", "budget", "key"))}
        for target in section["targets"]
    ]
    serve = recipe.serve.model_dump(exclude=None if recipe.serve.form == "gguf" else {"type"})
    return {"evaluate": section | {"targets": targets}, "serve": serve}


def _describe_engines(recipe: Recipe, files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Return what answered for each target, with its version: the engines here, and the models elsewhere."""
    external = {
        target.name: {
            "name": urlsplit(target.provider).hostname or target.provider,
            "version": target.model,
            "threads": 0,
        }
        for target in recipe.evaluate.targets
    }
    return {target: describe_engine(recipe, target, gguf) for target, gguf in files.items()} | external


def _refuse(recipe: Recipe, run_context: RunContext, files: Mapping[str, Path], suites: Suites) -> None:
    """Raise BadRecipe for what cannot be asked, before anything is."""
    items = [item for suite_items in suites.values() for item in suite_items]
    if run_context.catalogue is None and any(item.expected_calls for item in items):
        raise BadRecipe("evaluate.suites: suites request tool calls, but the recipe has no data.tools")
    if taken_names := [target.name for target in recipe.evaluate.targets if target.name in files]:
        raise BadRecipe(f"evaluate.targets: name: {taken_names[0]!r}: a file of this run has this name; use another")
    if recipe.evaluate.standard:
        require_lm_eval(recipe.evaluate.standard)
    if any(item.style for item in items):
        _ = run_context.styles  # raises where the passages do not suffice


def _read_all_answers(recipe: Recipe, files: Mapping[str, Path], suites: Suites, folder: Path) -> AnswersByTarget:
    targets = [*files, *(target.name for target in recipe.evaluate.targets)]
    return {
        (suite, target): read_answers_of(folder, suite, target, (item.id for item in items))
        for suite, items in suites.items()
        for target in targets
    }


def _gather_evidence(
    recipe: Recipe,
    run: Path,
    prepared: Artifact,
    converted: Artifact,
    answers: AnswersByTarget,
    seen_items: Mapping[str, int],
) -> Evidence:
    catalogue, served = load_tools(prepared.path), served_target(recipe)
    training = open_stage(run, "train").metrics if artifacts.is_finished(run / "train") else {}
    return Evidence(
        answers=answers,
        served=served,
        baseline=BASE,
        seen_items=seen_items,
        catalogue=catalogue.names if catalogue else (),
        validation_loss=training.get("validation_loss"),
        perplexity=converted.metrics.get("fidelity", {}).get(served, {}).get("perplexity"),
    )


def _seen_in_training(prepared: Path, suites: Suites) -> dict[str, int]:
    """Return how many items of each suite are in the training data, by their text or their sentence template."""
    return count_seen_in_training(
        prepared, {name: [(item.text, item.phrasing) for item in items] for name, items in suites.items()}
    )


def _overlap_table(prepared: Path, suites: Suites, seen_items: Mapping[str, int]) -> dict[str, Any]:
    phrasings = read_phrasings(prepared)
    return {
        name: count_overlap(phrasings, (item.phrasing for item in items))
        | {"items": len(items), "seen": seen_items[name]}
        for name, items in suites.items()
    }
