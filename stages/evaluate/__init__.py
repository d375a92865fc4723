"""Evaluate: base and every tuned file answer the same items through the engine that serves; verdicts are data."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneline.configs.evaluation import Evaluate
from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import BadRecipe
from tuneline.core.events import Events
from tuneline.stages.evaluate.clients.asking import CONCURRENCY, Answer, ask_all, read_answers
from tuneline.stages.evaluate.clients.external_targets import ask_elsewhere
from tuneline.stages.evaluate.clients.openai_client import asker
from tuneline.stages.evaluate.clients.target_engines import BASE, REFERENCE, Engine, Engines, engine_of, stands_in
from tuneline.stages.evaluate.suites.items import Item, make_items
from tuneline.stages.evaluate.suites.run_context import Known, of_run
from tuneline.stages.evaluate.verdicts import gate
from tuneline.stages.evaluate.verdicts.task_verdicts import FILE as VERDICTS
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.prepare import load_tools
from tuneline.stages.prepare.checks.overlap import overlap, read_carriers, seen

Suites = dict[str, tuple[Item, ...]]


def evaluate(recipe: Recipe, run: Path) -> Artifact:
    """Answers in `evaluate/answers/SUITE/TARGET.jsonl`, `evaluate/verdicts.json`; tables and gate as metrics.

    A gate that says no still finishes the artifact.
    """
    prepared, converted = artifacts.open_artifact(run / "prepare"), artifacts.open_artifact(run / "convert")
    settings = _settings(recipe) | {"context": recipe.serve.context}

    def build(folder: Path) -> dict[str, Any]:
        known, events = of_run(recipe, run), Events(run, "evaluate")
        suites = {suite.name: make_items(suite, known) for suite in recipe.evaluate.suites}
        files, elsewhere = targets(recipe, converted.path), [target.name for target in recipe.evaluate.targets]
        _refuse(recipe, known, files, suites)
        if told := stands_in(recipe):
            events.emit("warning", text=told)
        with Engines(recipe, run, folder) as engines:
            _ask_targets(recipe, known, files, suites, folder, events, engines)
        ask_elsewhere(recipe, known, suites, folder, events)
        with Engines(recipe, run, folder) as engines:
            standard = _standard(recipe, files, folder, events, engines)
        perplexity = _perplexity(recipe, prepared.path, files, folder, events)
        answers = {
            (suite, target): answers_of(folder, suite, target, items)
            for suite, items in suites.items()
            for target in (*files, *elsewhere)
        }
        stand = seen(prepared.path, {name: [(i.text, i.carrier) for i in items] for name, items in suites.items()})
        gated, verdicts = gate.judge(recipe.evaluate, _evidence(recipe, run, prepared, converted, answers, stand))
        artifacts.write_atomic(folder / VERDICTS, verdicts.model_dump_json(indent=1))
        carriers = read_carriers(prepared.path)
        return tables(recipe.evaluate, answers) | {
            "gate": gated,
            "engines": {target: engine_of(recipe, target) for target in files},
            "classifier": _classify(recipe.evaluate, prepared.path, suites),
            "perplexity": perplexity,
            "standard": standard,
            "preselector": _preselected(recipe.evaluate, known, suites),
            "overlap": {
                name: overlap(carriers, (item.carrier for item in items)) | {"items": len(items), "seen": stand[name]}
                for name, items in suites.items()
            },
        }

    needs = {"prepare": prepared, "convert": converted}
    return artifacts.make(run / "evaluate", stage_version=4, settings=settings, needs=needs, build=build)


def _settings(recipe: Recipe) -> dict[str, Any]:
    """What the result hangs on: not what a model elsewhere costs, nor which key pays for it."""
    section = recipe.section("evaluate")
    asked = [
        {key: value for key, value in target.items() if not key.startswith(("usd", "budget", "key"))}
        for target in section["evaluate"]["targets"]
    ]
    return {"evaluate": section["evaluate"] | {"targets": asked}}


def targets(recipe: Recipe, converted: Path) -> dict[str, Path]:
    """What is asked: the base, the 16-bit reference (always made) and the other files of the tuned model."""
    names = [BASE, REFERENCE, *(f"tuned-{kind}" for kind in recipe.convert.types if kind != "F16")]
    return {name: converted / (f"{name}-F16.gguf" if name == BASE else f"{name}.gguf") for name in names}


def served(recipe: Recipe) -> str:
    """The target that goes live; an adapter and a merged model bear the name of the 16-bit file of the same weights."""
    return f"tuned-{recipe.serve.type}" if recipe.serve.form == "gguf" else REFERENCE


def tables(settings: Evaluate, answers: Mapping[tuple[str, str], Sequence[Answer]]) -> dict[str, Any]:
    """All tables, from answers by (suite, target)."""
    from tuneline.stages.evaluate.scoring import scoreboard

    board = [scoreboard.scoreboard_row(s, t, found, settings.confidence) for (s, t), found in answers.items()]
    return {
        "confidence": settings.confidence,
        "scoreboard": board,
        **{
            name: [row for (s, t), found in answers.items() for row in table(s, t, found, settings.confidence)]
            for name, table in scoreboard.TABLES.items()
        },
        "loss_in_points": scoreboard.losses(board, REFERENCE),
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
    trained = artifacts.open_artifact(run / "train").metrics if artifacts.finished(run / "train") else {}
    return gate.Evidence(
        answers=answers,
        served=served(recipe),
        baseline=BASE,
        seen=seen,
        catalogue=catalogue.names if catalogue else (),
        validation_loss=trained.get("validation_loss"),
        perplexity=converted.metrics.get("fidelity", {}).get(served(recipe), {}).get("perplexity"),
    )


def _refuse(recipe: Recipe, known: Known, files: Mapping[str, Path], suites: Suites) -> None:
    """Raise BadRecipe for what cannot be asked, before anything is."""
    if known.catalogue is None and any(item.tool or item.calls for items in suites.values() for item in items):
        raise BadRecipe("evaluate.suites: suites ask for tool calls, but the recipe has no data.tools")
    if taken := [target.name for target in recipe.evaluate.targets if target.name in files]:
        raise BadRecipe(f"evaluate.targets: name: {taken[0]!r}: a file of this run is called so; take another")
    if recipe.evaluate.standard:
        from tuneline.stages.evaluate.clients.lm_eval_tasks import refuse_unless_installed

        refuse_unless_installed(recipe.evaluate.standard)
    if any(item.style for items in suites.values() for item in items):
        _ = known.styles


def _ask_targets(
    recipe: Recipe,
    known: Known,
    files: dict[str, Path],
    suites: Suites,
    folder: Path,
    events: Events,
    engines: Engines,
) -> None:
    """Starts the engine for each target that has questions open, and asks them."""
    if not suites:
        return
    total = len(files) * sum(len(items) for items in suites.values())
    done = sum(len(read_answers(answers_file(folder, suite, target))) for suite in suites for target in files)

    def answered() -> None:
        nonlocal done
        done += 1
        events.progress(done, total, "answers", target)

    for target, gguf in files.items():
        if all(len(read_answers(answers_file(folder, s, target))) >= len(items) for s, items in suites.items()):
            continue
        ask_target(recipe, known, engines.of(target, gguf), suites, folder, answered)


def _perplexity(
    recipe: Recipe, prepared: Path, files: Mapping[str, Path], folder: Path, events: Events
) -> list[dict[str, Any]]:
    """Of base and tuned on validation rows, rendered with the base's own tokenizer and template."""
    if not recipe.evaluate.perplexity_rows:
        return []
    from tuneline.stages.evaluate.scoring import perplexity
    from tuneline.stages.prepare import read_prepared
    from tuneline.stages.prepare.rendering.renderer import Renderer

    rows = read_prepared(prepared / "validation.jsonl")[: recipe.evaluate.perplexity_rows]
    rendered = list(Renderer(open_base(recipe).path, load_tools(prepared)).batch(rows))
    total, done = len(files) * len(rows), 0

    def measured(target: str, _: int) -> None:
        nonlocal done
        done += 1
        events.progress(done, total, "rows", f"perplexity of {target}")

    threads = recipe.compute.threads or len(os.sched_getaffinity(0))
    losses = perplexity.measure(files, rendered, folder, recipe.data.max_tokens, threads, measured)
    return perplexity.table(losses, recipe.evaluate.confidence)


def _standard(
    recipe: Recipe, files: Mapping[str, Path], folder: Path, events: Events, engines: Engines
) -> list[dict[str, Any]]:
    """Public benchmarks, of the base and of what goes live."""
    if not recipe.evaluate.standard:
        return []
    from tuneline.stages.evaluate.clients.lm_eval_tasks import ask_standard

    rows = []
    for done, target in enumerate((BASE, served(recipe))):
        events.progress(done, 2, "models", f"standard benchmarks of {target}")
        base_url = engines.of(target, files[target]).base_url
        rows += ask_standard(recipe.evaluate.standard, base_url, target, folder, CONCURRENCY)
    return rows


def ask_target(
    recipe: Recipe,
    known: Known,
    engine: Engine,
    suites: Suites,
    folder: Path,
    answered: Callable[[], None] = lambda: None,
) -> None:
    """Every item of `suites` to one target through its engine; answers as `evaluate` keeps them, below `folder`."""

    async def ask_suites() -> None:
        async with asker(engine, recipe.data.system, known.catalogue) as ask:
            for suite, items in suites.items():
                await ask_all(items, ask, answers_file(folder, suite, engine.model), answered, known)

    asyncio.run(ask_suites())


def _classify(settings: Evaluate, prepared: Path, suites: Suites) -> list[dict[str, Any]]:
    from tuneline.stages.evaluate.scoring import baseline_classifier, scoreboard

    texts, tools = baseline_classifier.training_pairs(prepared / "train.jsonl")
    if len(set(tools)) < 2 or not suites:
        return []
    asked = {suite: [item for item in items if item.tool] for suite, items in suites.items()}
    items = [item for found in asked.values() for item in found]
    predicted = {
        item.id: tool for item, tool in zip(items, baseline_classifier.predict(texts, tools, items), strict=True)
    }
    return [
        scoreboard.classifier_row(
            suite,
            [predicted[item.id] == item.tool for item in found],
            [item.carrier for item in found],
            settings.confidence,
        )
        for suite, found in asked.items()
        if found
    ]


def _preselected(settings: Evaluate, known: Known, suites: Suites) -> list[dict[str, Any]]:
    """How often the right tools are among the `k` the preselector shows, where a suite lets it choose."""
    from tuneline.stages.evaluate.scoring import scoreboard

    chosen = [suite for suite in settings.suites if known.offered(suite.offered)]
    return [
        row
        for suite in chosen
        for row in scoreboard.recall(suite.name, suites[suite.name], known.preselector.nearest, settings.confidence)
    ]


def answers_of(folder: Path, suite: str, target: str, items: Sequence[Item]) -> list[Answer]:
    """In the order of the items: answers come as the engine finishes them, and tables must not depend on that."""
    by_id = {answer.id: answer for answer in read_answers(answers_file(folder, suite, target))}
    return [by_id[item.id] for item in items]


def answers_file(folder: Path, suite: str, target: str) -> Path:
    """Where the answers of a target to a suite are kept."""
    return folder / "answers" / suite / f"{target}.jsonl"
