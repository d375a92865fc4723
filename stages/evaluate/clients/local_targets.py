"""Asks the suites of this run's own models, through the engine that serves each."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from tuneline.configs.recipe import Recipe
from tuneline.core.events import Events
from tuneline.stages.evaluate.answers import answers_file, read_answers
from tuneline.stages.evaluate.clients.openai_client import connect_engine
from tuneline.stages.evaluate.clients.suite_runner import ask_all
from tuneline.stages.evaluate.clients.target_engines import Engine, Engines
from tuneline.stages.evaluate.suites.item import Suites
from tuneline.stages.evaluate.suites.run_context import RunContext


def ask_local_targets(
    recipe: Recipe,
    run_context: RunContext,
    files: Mapping[str, Path],
    suites: Suites,
    folder: Path,
    events: Events,
    engines: Engines,
) -> None:
    """Ask every target in `files` the items it has not answered yet; no engine is started for one that is finished."""
    total = len(files) * sum(len(items) for items in suites.values())
    finished = sum(len(read_answers(answers_file(folder, suite, target))) for suite in suites for target in files)

    def on_answer() -> None:
        nonlocal finished
        finished += 1
        events.progress(finished, total, "answers", target)

    for target, gguf in files.items():
        if not _is_finished(target, suites, folder):
            ask_engine(recipe, run_context, engines.start(target, gguf), suites, folder, on_answer)


def _is_finished(target: str, suites: Suites, folder: Path) -> bool:
    return all(len(read_answers(answers_file(folder, suite, target))) >= len(items) for suite, items in suites.items())


def ask_engine(
    recipe: Recipe,
    run_context: RunContext,
    engine: Engine,
    suites: Suites,
    folder: Path,
    on_answer: Callable[[], None] = lambda: None,
) -> None:
    """Ask one engine every item of `suites`; the answers are written below `folder` as `evaluate` keeps them."""

    async def ask_suites() -> None:
        async with connect_engine(engine, recipe.data.system, run_context.catalogue) as ask:
            for suite, items in suites.items():
                await ask_all(items, ask, answers_file(folder, suite, engine.model), on_answer, run_context)

    asyncio.run(ask_suites())
