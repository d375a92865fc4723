"""The same suites to models that are not ours: any endpoint, or a closed model through a provider, within a budget."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from tuneline.configs.evaluation import Target
from tuneline.configs.recipe import Recipe
from tuneline.core.events import Events
from tuneline.engines.providers import find_provider
from tuneline.stages.evaluate.clients.asking import Message, ask_all, read_answers, request
from tuneline.stages.evaluate.clients.openai_client import CHARACTERS_A_TOKEN, Paid, Prompts
from tuneline.stages.evaluate.suites.items import Item
from tuneline.stages.evaluate.suites.run_context import Known

Suites = Mapping[str, Sequence[Item]]


def ask_elsewhere(recipe: Recipe, known: Known, suites: Suites, folder: Path, events: Events) -> None:
    """Every item that has no answer yet, to each of `evaluate.targets`; what it costs at most is told first.

    Raises:
        BadRequest: a key is not set, before anything is asked. StageFailed: the budget is spent, or no answer.
    """
    for target in recipe.evaluate.targets:
        find_provider(target.provider, target.key_variable).connect(
            target.model
        )  # all keys are there, or nothing is asked
    for target in recipe.evaluate.targets:
        asyncio.run(_ask(target, recipe.data.system, known, suites, folder, events))


async def _ask(target: Target, system: str, known: Known, suites: Suites, folder: Path, events: Events) -> None:
    files = {suite: folder / "answers" / suite / f"{target.name}.jsonl" for suite in suites}
    done = {suite: {answer.id for answer in read_answers(file)} for suite, file in files.items()}
    open_items = [item for suite, items in suites.items() for item in items if item.id not in done[suite]]
    if not open_items:
        return
    total, left = sum(map(len, suites.values())), len(open_items)

    def answered() -> None:
        nonlocal left
        left -= 1
        events.progress(total - left, total, "answers", target.name)

    async with find_provider(target.provider, target.key_variable).connect(target.model) as chat:
        paid = Paid(target, chat, Prompts(system, known.catalogue))
        paid.spent = sum(answer.cost_usd for file in files.values() for answer in read_answers(file))
        if target.is_paid:
            events.emit("note", text=_bill(target, paid, open_items))
        for suite, items in suites.items():
            await ask_all(items, paid.ask, files[suite], answered, known)


def _bill(target: Target, paid: Paid, items: Sequence[Item]) -> str:
    most, before = 0.0, list[Message]()
    for item in items:
        before = before if item.turn else []
        most += paid.most(item, before)
        longest = "x" * int(CHARACTERS_A_TOKEN * item.max_tokens)
        before = [*before, request(item), {"role": "assistant", "content": longest}]
    return (
        f"{target.name}: {len(items)} requests to {target.model} at {target.provider}, {most:.4f} USD at most, "
        f"never more than {target.budget_usd:g}; {paid.spent:.4f} spent so far"
    )
