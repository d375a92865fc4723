"""A provider's model as the judge of a run's answers."""

import asyncio
from pathlib import Path

from tuneline.configs.recipe import recipe_of
from tuneline.core import artifacts
from tuneline.core.errors import BadRequest, NotFound
from tuneline.engines.providers import find_provider
from tuneline.stages.evaluate import served
from tuneline.stages.evaluate.scoring.llm_judge import (
    ENOUGH_LABELS,
    Judged,
    Key,
    answers_to_judge,
    judge,
    read_labels,
    write_sheet,
)

MAX_TOKENS = 400
"""Room for a judge that thinks before it says its word."""


def judge_run(run: Path, where: str, model: str, labels: Path | None, sheet: Path | None, items: int) -> str:
    """Writes a sheet to label, or has the model judge; what it found, in a line.

    Raises:
        NotFound: the run is not evaluated, or the labels are not there. BadRequest: no model is named.
    """
    artifacts.open_artifact(run / "evaluate")
    target = served(recipe_of(run))
    if sheet:
        write_sheet(answers_to_judge(run / "evaluate", target, items), sheet)
        return f"{sheet}: set `good` to true or false in each line, then `tuneline judge {run.name} --labels {sheet}`"
    if not model:
        raise BadRequest("--model: which model judges? `--provider openai --model NAME`")
    if labels and not labels.exists():
        raise NotFound(f"{labels}: no such file; `tuneline judge {run.name} --sheet {labels}` writes one to label")
    known = read_labels(labels) if labels else {}
    found = asyncio.run(_judged(run, target, where, model, known, items))
    short = found.labels < ENOUGH_LABELS
    return f"{found.told}" + (f"; with fewer than {ENOUGH_LABELS} labels no gate counts it" if short else "")


async def _judged(run: Path, target: str, where: str, model: str, labels: dict[Key, bool], items: int) -> Judged:
    answers = answers_to_judge(run / "evaluate", target, items, tuple(labels))
    async with find_provider(where).connect(model) as chat:

        async def ask(prompt: str) -> str:
            message = [{"role": "user", "content": prompt}]
            return (await chat.ask(message, temperature=0, max_tokens=MAX_TOKENS)).text

        return await judge(run, target, f"{where}/{model}", answers, labels, ask)
