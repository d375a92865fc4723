"""`tuneline judge`: a provider's model as the judge of a run's answers."""

import asyncio
from pathlib import Path

from tuneline.configs.recipe import recipe_of
from tuneline.core.errors import BadRequest, NotFound
from tuneline.engines.providers import find_provider
from tuneline.stages.evaluate.scoring.llm_judge import (
    MIN_LABELS,
    JudgeResult,
    Key,
    answers_to_judge,
    judge_answers,
    read_labels,
    write_sheet,
)
from tuneline.stages.evaluate.targets import evaluated_target
from tuneline.stages.run_artifacts import open_stage

MAX_TOKENS = 400
"""Room for a judge that reasons before its verdict."""


def judge_run(
    run: Path, provider_name: str, model: str, labels_file: Path | None, sheet: Path | None, items: int
) -> str:
    """Write a sheet for people to label, or have the model judge the answers; return the line to print.

    Raises:
        NotFound: the run is not evaluated, or there is no file of labels.
        BadRequest: no model is named.
    """
    target = evaluated_target(open_stage(run, "evaluate"), recipe_of(run))
    if sheet:
        write_sheet(answers_to_judge(run / "evaluate", target, items), sheet)
        return f"{sheet}: set `good` to true or false in each line, then `tuneline judge {run.name} --labels {sheet}`"
    if not model:
        raise BadRequest("--model: required, as in `--provider openai --model NAME`")
    if labels_file and not labels_file.exists():
        raise NotFound(
            f"{labels_file}: no such file; `tuneline judge {run.name} --sheet {labels_file}` writes one to label"
        )
    labels = read_labels(labels_file) if labels_file else {}
    result = asyncio.run(_ask_judge(run, target, provider_name, model, labels, items))
    too_few = f"; gates ignore it with fewer than {MIN_LABELS} labels" if result.labels < MIN_LABELS else ""
    return f"{result.summary}{too_few}"


async def _ask_judge(
    run: Path, target: str, provider_name: str, model: str, labels: dict[Key, bool], items: int
) -> JudgeResult:
    answers = answers_to_judge(run / "evaluate", target, items, tuple(labels))
    async with find_provider(provider_name).connect(model) as chat:

        async def ask(prompt: str) -> str:
            messages = [{"role": "user", "content": prompt}]
            return (await chat.ask(messages, temperature=0, max_tokens=MAX_TOKENS)).text

        return await judge_answers(run, target, f"{provider_name}/{model}", answers, labels, ask)
