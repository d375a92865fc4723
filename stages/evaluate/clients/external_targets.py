"""Asks the same suites of external models: any endpoint, or a closed model through a provider, within a budget."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from tuneline.configs.evaluation import Target
from tuneline.configs.recipe import Recipe
from tuneline.core.events import Events
from tuneline.engines.providers import find_provider
from tuneline.stages.evaluate.answers import answers_file, read_answers
from tuneline.stages.evaluate.clients.budgeted_model import CHARACTERS_PER_TOKEN, BudgetedModel
from tuneline.stages.evaluate.clients.messages import Message, user_message
from tuneline.stages.evaluate.clients.openai_client import Prompts
from tuneline.stages.evaluate.clients.suite_runner import ask_all
from tuneline.stages.evaluate.suites.item import Item, Suites
from tuneline.stages.evaluate.suites.run_context import RunContext


def ask_external_targets(recipe: Recipe, run_context: RunContext, suites: Suites, folder: Path, events: Events) -> None:
    """Ask each of `evaluate.targets` the items it has not answered yet; the cost bound is reported first.

    Raises:
        BadRequest: a key is not set, before anything is asked.
        StageFailed: the budget is spent, or there was no answer.
    """
    refuse_missing_keys(recipe.evaluate.targets)
    for target in recipe.evaluate.targets:
        asyncio.run(_ask_target(target, recipe.data.system, run_context, suites, folder, events))


def refuse_missing_keys(targets: Sequence[Target]) -> None:
    """Raise BadRequest if the key of a target is not in the environment; called before training, not after."""
    for target in targets:
        find_provider(target.provider, target.key_variable).read_key()


async def _ask_target(
    target: Target, system: str, run_context: RunContext, suites: Suites, folder: Path, events: Events
) -> None:
    files = {suite: answers_file(folder, suite, target.name) for suite in suites}
    answers = [answer for file in files.values() for answer in read_answers(file)]
    answered_ids = {answer.id for answer in answers}
    open_items = [item for items in suites.values() for item in items if item.id not in answered_ids]
    if not open_items:
        return
    total, remaining = sum(map(len, suites.values())), len(open_items)

    def on_answer() -> None:
        nonlocal remaining
        remaining -= 1
        events.progress(total - remaining, total, "answers", target.name)

    async with find_provider(target.provider, target.key_variable).connect(target.model) as chat:
        model = BudgetedModel(target, chat, Prompts(system, run_context.catalogue))
        model.spent = sum(answer.cost_usd for answer in answers)
        if target.is_paid:
            events.emit("note", text=_cost_note(target, model, open_items))
        for suite, items in suites.items():
            await ask_all(items, model.ask, files[suite], on_answer, run_context)


def _cost_note(target: Target, model: BudgetedModel, items: Sequence[Item]) -> str:
    max_usd, history = 0.0, list[Message]()
    for item in items:
        history = history if item.turn else []
        max_usd += model.max_cost(item, history)
        longest = "x" * int(CHARACTERS_PER_TOKEN * item.max_tokens)
        history = [*history, user_message(item), {"role": "assistant", "content": longest}]
    return (
        f"{target.name}: {len(items)} requests to {target.model} at {target.provider}, {max_usd:.4f} USD at most, "
        f"never more than {target.budget_usd:g}; {model.spent:.4f} spent so far"
    )
