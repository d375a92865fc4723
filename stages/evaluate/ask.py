"""Asks one model every item, a few at a time, and writes each answer as it comes, so that a killed run goes on."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stages.evaluate.marks import fault_of
from stages.evaluate.suites import Item

CONCURRENCY = 4

NO_TOOL = "no tool"
"""What a request wants that no tool fits."""

IN_WORDS = "in words"
"""What a request wants that is answered by facts or a price."""


@dataclass(frozen=True)
class Reply:
    """What came back: calls by dotted name (`arguments` None where they were no JSON object), text and cost."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    text: str = ""
    tokens: int = 0
    latency_s: float = 0.0
    error: str | None = None
    """Why the server could not make an answer of what the model wrote."""


@dataclass(frozen=True)
class Answer:
    """One line of an answers file: the item, what came back and whether it was right."""

    id: str
    prompt: str
    expected: dict[str, Any]
    carrier: str
    calls: list[dict[str, Any]]
    text: str
    name_correct: bool
    exact: bool
    json_valid: bool
    tokens: int
    latency_s: float
    error: str | None = None
    fault: str | None = None
    """What is wrong with an answer in words."""

    @property
    def got(self) -> str:
        """The tool it named, or what it did instead."""
        if len(self.calls) == 1:
            return str(self.calls[0]["name"])
        if self.fault and not self.calls:
            return self.fault
        return f"{len(self.calls)} calls" if self.calls else "no call"


def wanted(answer: Answer) -> str:
    """The tool that was asked for, `IN_WORDS`, or `NO_TOOL`."""
    return str(answer.expected["name"] or answer.expected.get("kind", NO_TOOL))


def judge(item: Item, reply: Reply) -> Answer:
    """The answer with its marks: exactly one call to the right tool, then also equal arguments.

    Where words are wanted: no call, and the right words. Where no tool fits: no call, and words of its own.
    """
    calls, fault = reply.calls, None
    if item.tool is None:
        fault = "a call" if calls else fault_of(item.text, reply.text, item.says, item.never, item.price)
        name_correct = reply.error is None and fault is None
    else:
        name_correct = len(calls) == 1 and calls[0]["name"] == item.tool
    no_arguments = item.tool is None or item.arguments is None
    return Answer(
        id=item.id,
        prompt=item.text,
        expected=_expected(item),
        carrier=item.carrier,
        calls=calls,
        text=reply.text,
        name_correct=name_correct,
        exact=name_correct and (no_arguments or calls[0]["arguments"] == item.arguments),
        json_valid=bool(calls) and all(isinstance(call["arguments"], dict) for call in calls),
        tokens=reply.tokens,
        latency_s=round(reply.latency_s, 4),
        error=reply.error,
        fault=fault,
    )


def _expected(item: Item) -> dict[str, Any]:
    expected = {"name": item.tool, "arguments": item.arguments}
    if not item.in_words:
        return expected
    told = [*item.says, *(f"not {word}" for word in item.never), *([item.price] if item.price else [])]
    return expected | {"kind": IN_WORDS, "words": told}


async def ask_all(
    items: Sequence[Item],
    ask: Callable[..., Awaitable[Reply]],
    file: Path,
    answered: Callable[[], None] = lambda: None,
) -> None:
    """Every item that has no answer in `file` yet gets one, `ask(text)`; `answered` is called after each.

    The first item is asked alone: when it is answered, the prefix all prompts share lies in the server's cache.
    """
    done = {answer.id for answer in read_answers(file)}
    missing = [item for item in items if item.id not in done]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as answers:

        async def one(item: Item) -> None:
            answer = judge(item, await (ask(item.text) if item.offered else ask(item.text, offered=False)))
            answers.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
            answers.flush()
            answered()

        for item in missing[:1]:
            await one(item)
        queue = iter(missing[1:])
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(CONCURRENCY):
                    group.create_task(_work(queue, one))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None  # the rest failed for the same reason


def read_answers(file: Path) -> list[Answer]:
    """The whole answers in a file, one an item; what a crash cut off is removed from it."""
    if not file.exists():
        return []
    answers = [Answer(**json.loads(line)) for line in _whole_lines(file).split("\n") if line]
    return list({answer.id: answer for answer in answers}.values())


async def _work(queue: Iterable[Item], one: Callable[[Item], Awaitable[None]]) -> None:
    for item in queue:  # the iterator is shared: each worker takes the next one
        await one(item)


def _whole_lines(file: Path) -> str:
    content = file.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with file.open("rb+") as handle:
            handle.truncate(end)
    return content[:end].decode()
