"""Asks one model every item, several at a time, and writes each answer at once, so that a killed run can resume."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from tuneline.core import jsonl
from tuneline.stages.evaluate.answers import CONCURRENCY, Answer, Reply, read_answers
from tuneline.stages.evaluate.clients.messages import Message, turn_messages
from tuneline.stages.evaluate.scoring.grading import grade
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.suites.run_context import NO_RUN, RunContext

Ask = Callable[[Item, list[Message]], Awaitable[Reply]]
"""Asks a model an item after the messages of the conversation's earlier turns."""


async def ask_all(
    items: Sequence[Item],
    ask: Ask,
    file: Path,
    on_answer: Callable[[], None] = lambda: None,
    run_context: RunContext = NO_RUN,
    concurrency: int = CONCURRENCY,
) -> None:
    """Ask every item that has no answer in `file` yet, and append the answers to it.

    The first item is asked alone: when it is answered, the prefix that all prompts share is in the server's KV cache.
    The turns of a conversation are asked one after the other, each after the model's own answers. `on_answer` is called
    after each answer.
    """
    earlier = {answer.id: answer for answer in read_answers(file)}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()

    async def ask_item(item: Item, history: list[Message]) -> Answer:
        answer = grade(item, await ask(item, history), run_context)
        jsonl.append(file, asdict(answer))
        on_answer()
        return answer

    async def ask_conversation(turns: Sequence[Item]) -> None:
        history: list[Message] = []
        for item in turns:
            answer = earlier.get(item.id) or await ask_item(item, history)
            history = history + turn_messages(item, answer)

    unfinished = [turns for turns in conversations(items) if turns[-1].id not in earlier]
    for turns in unfinished[:1]:
        await ask_conversation(turns)
    await _run_workers(iter(unfinished[1:]), ask_conversation, concurrency)


def conversations(items: Sequence[Item]) -> list[list[Item]]:
    """Return the items by conversation; most have one turn."""
    grouped: list[list[Item]] = []
    for item in items:
        if item.turn == 0:
            grouped.append([])
        grouped[-1].append(item)
    return grouped


async def _run_workers(
    queue: Iterable[Sequence[Item]], ask_conversation: Callable[[Sequence[Item]], Awaitable[None]], workers: int
) -> None:
    async def work() -> None:
        for turns in queue:  # the iterator is shared: each worker takes the next conversation
            await ask_conversation(turns)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the rest failed for the same reason
