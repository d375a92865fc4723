"""Evaluate: base and every tuned file answer the same items through the engine that serves; verdicts are data."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.catalogue import Catalogue
from configs.recipe import Evaluate, Recipe
from stages import artifact
from stages.artifact import SCRATCH, Artifact
from stages.errors import BadRecipe
from stages.evaluate import gate
from stages.evaluate.ask import CONCURRENCY, Answer, ask_all, read_answers
from stages.evaluate.client import asker
from stages.evaluate.suites import Item, make_items
from stages.evaluate.verdicts import FILE as VERDICTS
from stages.events import Events
from stages.prepare import load_tools
from stages.prepare.overlap import overlap, read_carriers, seen
from stages.prepare.preselect import FILE, Preselector

MAX_TOKENS = 96
"""Longest answer, in tokens; a right call takes far fewer, and a model that rambles is stopped."""

BASE, REFERENCE = "base", "tuned-F16"

Suites = dict[str, tuple[Item, ...]]


def evaluate(recipe: Recipe, run: Path) -> Artifact:
    """Answers in `evaluate/answers/SUITE/TARGET.jsonl`, `evaluate/verdicts.json`; tables and gate as metrics.

    A gate that says no still finishes the artifact.
    """
    prepared, converted = artifact.open_artifact(run / "prepare"), artifact.open_artifact(run / "convert")
    settings = recipe.section("evaluate") | {"max_tokens": MAX_TOKENS, "context": recipe.serve.context}

    def build(folder: Path) -> dict[str, Any]:
        suites = {suite.name: make_items(suite) for suite in recipe.evaluate.suites}
        files = targets(recipe, converted.path)
        _ask_targets(recipe, prepared.path, files, suites, folder, Events(run, "evaluate"))
        answers = {
            (suite, target): answers_of(folder, suite, target, items)
            for suite, items in suites.items()
            for target in files
        }
        known = seen(prepared.path, {name: [(i.text, i.carrier) for i in items] for name, items in suites.items()})
        told, verdicts = gate.judge(recipe.evaluate, _evidence(recipe, run, prepared, converted, answers, known))
        artifact.write_atomic(folder / VERDICTS, verdicts.model_dump_json(indent=1))
        carriers = read_carriers(prepared.path)
        return tables(recipe.evaluate, answers) | {
            "gate": told,
            "classifier": _classify(recipe.evaluate, prepared.path, suites),
            "overlap": {
                name: overlap(carriers, (item.carrier for item in items)) | {"items": len(items), "seen": known[name]}
                for name, items in suites.items()
            },
        }

    needs = {"prepare": prepared, "convert": converted}
    return artifact.make(run / "evaluate", stage_version=3, settings=settings, needs=needs, build=build)


def targets(recipe: Recipe, converted: Path) -> dict[str, Path]:
    """What is asked: the base, the 16-bit reference (always made) and the other files of the tuned model."""
    names = [BASE, REFERENCE, *(f"tuned-{kind}" for kind in recipe.convert.types if kind != "F16")]
    return {name: converted / (f"{name}-F16.gguf" if name == BASE else f"{name}.gguf") for name in names}


def served(recipe: Recipe) -> str:
    """The target that goes live; an adapter and a merged model are judged by the 16-bit file of the same weights."""
    return f"tuned-{recipe.serve.type}" if recipe.serve.form == "gguf" else REFERENCE


def tables(settings: Evaluate, answers: Mapping[tuple[str, str], Sequence[Answer]]) -> dict[str, Any]:
    """All tables, from answers by (suite, target)."""
    from stages.evaluate import scorers

    board = [scorers.scoreboard_row(s, t, found, settings.confidence) for (s, t), found in answers.items()]
    return {
        "confidence": settings.confidence,
        "scoreboard": board,
        "handlers": [row for (s, t), found in answers.items() for row in scorers.by_handler(s, t, found)],
        "confusions": [row for (s, t), found in answers.items() for row in scorers.confusions(s, t, found)],
        "loss_in_points": scorers.losses(board, REFERENCE),
    }


def _evidence(
    recipe: Recipe,
    run: Path,
    prepared: Artifact,
    converted: Artifact,
    answers: Mapping[tuple[str, str], Sequence[Answer]],
    seen: Mapping[str, int],
) -> gate.Evidence:
    catalogue = load_tools(prepared.path)
    trained = artifact.open_artifact(run / "train").metrics if artifact.finished(run / "train") else {}
    return gate.Evidence(
        answers=answers,
        served=served(recipe),
        baseline=BASE,
        seen=seen,
        catalogue=catalogue.names if catalogue else (),
        validation_loss=trained.get("validation_loss"),
        perplexity=converted.metrics.get("fidelity", {}).get(served(recipe), {}).get("perplexity"),
    )


def _ask_targets(
    recipe: Recipe, prepared: Path, files: dict[str, Path], suites: Suites, folder: Path, events: Events
) -> None:
    """Starts the engine for each target that has questions open, and asks them."""
    if not suites:
        return
    catalogue = load_tools(prepared)
    if catalogue is None and any(item.tool for items in suites.values() for item in items):
        raise BadRecipe("evaluate.suites: suites ask for tool calls, but the recipe has no data.tools")
    tools = catalogue.openai() if catalogue else []
    total = len(files) * sum(len(items) for items in suites.values())
    done = sum(len(read_answers(_file(folder, suite, target))) for suite in suites for target in files)

    def answered() -> None:
        nonlocal done
        done += 1
        events.progress(done, total, "answers", target)

    for target, gguf in files.items():
        if all(len(read_answers(_file(folder, s, target))) >= len(items) for s, items in suites.items()):
            continue
        ask_target(recipe, tools, target, gguf, suites, folder, answered, _select(prepared, catalogue, recipe))


def _select(
    prepared: Path, catalogue: Catalogue | None, recipe: Recipe
) -> Callable[[str], list[dict[str, Any]]] | None:
    """The preselector the run was prepared with, if it was."""
    if catalogue is None or not (prepared / FILE).exists():
        return None
    selector = Preselector.read(prepared)

    def select(text: str) -> list[dict[str, Any]]:
        near = set(selector.nearest(text, recipe.data.nearest))
        return catalogue.openai([name for name in catalogue.names if name in near])

    return select


def ask_target(
    recipe: Recipe,
    tools: list[dict[str, Any]],
    target: str,
    gguf: Path,
    suites: Suites,
    folder: Path,
    answered: Callable[[], None] = lambda: None,
    select: Callable[[str], list[dict[str, Any]]] | None = None,
) -> None:
    """Every item of `suites` to one file through its engine; answers as `evaluate` keeps them, below `folder`."""
    from endpoints.llama_server import serving

    async def ask_suites(base_url: str) -> None:
        async with asker(base_url, target, recipe.data.system, tools, MAX_TOKENS, select) as ask:
            for suite, items in suites.items():
                await ask_all(items, ask, _file(folder, suite, target), answered)

    log = folder / SCRATCH / f"{target}.log"
    log.parent.mkdir(exist_ok=True)
    threads = recipe.compute.threads or len(os.sched_getaffinity(0))
    context = recipe.serve.context
    with serving(gguf, context=context, threads=threads, slots=CONCURRENCY, alias=target, log=log) as server:
        asyncio.run(ask_suites(server.base_url))


def _classify(settings: Evaluate, prepared: Path, suites: Suites) -> list[dict[str, Any]]:
    from stages.evaluate import classifier, scorers

    texts, tools = classifier.training_pairs(prepared / "train.jsonl")
    if len(set(tools)) < 2 or not suites:
        return []
    asked = {suite: [item for item in items if item.tool] for suite, items in suites.items()}
    items = [item for found in asked.values() for item in found]
    predicted = {item.id: tool for item, tool in zip(items, classifier.predict(texts, tools, items), strict=True)}
    return [
        scorers.classifier_row(
            suite,
            [predicted[item.id] == item.tool for item in found],
            [item.carrier for item in found],
            settings.confidence,
        )
        for suite, found in asked.items()
        if found
    ]


def answers_of(folder: Path, suite: str, target: str, items: Sequence[Item]) -> list[Answer]:
    """In the order of the items: answers come as the engine finishes them, and tables must not depend on that."""
    by_id = {answer.id: answer for answer in read_answers(_file(folder, suite, target))}
    return [by_id[item.id] for item in items]


def _file(folder: Path, suite: str, target: str) -> Path:
    return folder / "answers" / suite / f"{target}.jsonl"
