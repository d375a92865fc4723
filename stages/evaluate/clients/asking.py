"""Asks one model every item, a few at a time, and writes each answer as it comes, so that a killed run goes on."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import wire_name
from tuneline.core import jsonl
from tuneline.engines.tool_calls import MISTRAL, TAG
from tuneline.stages.evaluate.scoring.answer_checks import fault
from tuneline.stages.evaluate.scoring.arguments import same_calls
from tuneline.stages.evaluate.suites.items import Item
from tuneline.stages.evaluate.suites.run_context import Known

CONCURRENCY = 4

NO_TOOL = "no tool"
"""What a request wants that no tool fits."""

IN_WORDS = "in words"
"""What a request wants that is answered by facts or a price."""

PARALLEL = "parallel calls"
"""What a request wants that takes several calls at once."""

NOTHING_KNOWN = Known()
Message = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What came back: calls by dotted name (`arguments` None where they were no JSON object), text and cost."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    text: str = ""
    tokens: int = 0
    latency_s: float = 0.0
    error: str | None = None
    """Why the server could not make an answer of what the model wrote."""
    prompt_tokens: int = 0
    cut: bool = False
    """Whether it ended because it was long enough."""
    cost_usd: float = 0.0


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
    prompt_tokens: int = 0
    cost_usd: float = 0.0
    language: str | None = None
    """The one asked in, where a suite has several."""
    about: dict[str, Any] = field(default_factory=dict)
    """Where in a conversation or a long text it stands."""
    measures: dict[str, Any] = field(default_factory=dict)
    """What is measured beside right and wrong."""

    @property
    def got(self) -> str:
        """The tool it named, or what it did instead."""
        if len(self.calls) == 1:
            return str(self.calls[0]["name"])
        if self.fault and not self.calls:
            return self.fault
        return f"{len(self.calls)} calls" if self.calls else "no call"


def wanted(answer: Answer) -> str:
    """The tool that was asked for, `PARALLEL`, `IN_WORDS`, or `NO_TOOL`."""
    return str(answer.expected["name"] or answer.expected.get("kind", NO_TOOL))


def judge(item: Item, reply: Reply, known: Known = NOTHING_KNOWN) -> Answer:
    """The answer with its marks: exactly the calls wanted, by name, then also with equal arguments.

    Where words are wanted: no call, and the right words. Where no tool fits: no call, and words of its own.
    """
    calls, wanted_calls, wrong = reply.calls, _wanted_calls(item), None
    if wanted_calls:
        name_correct = Counter(call["name"] for call in calls) == Counter(call["name"] for call in wanted_calls)
    else:
        in_calls = calls or reply.text.lstrip().startswith((TAG, MISTRAL))  # where none are offered, none are parsed
        wrong = "a call" if in_calls else fault(item, reply, known)
        name_correct = reply.error is None and wrong is None
    return Answer(
        id=item.id,
        prompt=item.text,
        expected=_expected(item),
        carrier=item.carrier,
        calls=calls,
        text=reply.text,
        name_correct=name_correct,
        exact=name_correct and same_calls(wanted_calls, calls, known.schemas),
        json_valid=bool(calls) and all(isinstance(call["arguments"], dict) for call in calls),
        tokens=reply.tokens,
        latency_s=round(reply.latency_s, 4),
        error=reply.error,
        fault=wrong,
        prompt_tokens=reply.prompt_tokens,
        cost_usd=reply.cost_usd,
        language=item.language,
        about=_about(item),
        measures=_measures(item, reply, known),
    )


def _wanted_calls(item: Item) -> list[dict[str, Any]]:
    return [{"name": item.tool, "arguments": item.arguments}] if item.tool else list(item.calls)


def _expected(item: Item) -> dict[str, Any]:
    expected = {"name": item.tool, "arguments": item.arguments}
    if item.calls:
        return expected | {"kind": PARALLEL, "calls": list(item.calls), "words": [_told(call) for call in item.calls]}
    if not item.in_words:
        return expected
    told = [*item.says, *(f"not {word}" for word in item.never), *([item.price] if item.price else [])]
    told += [f"in {item.language}"] if item.in_language else []
    told += [f"in the style {item.style}"] if item.style else []
    expected |= {"reference": item.reference} if item.reference else {}
    return expected | {"kind": IN_WORDS, "words": told}


def _told(call: dict[str, Any]) -> str:
    return f"{call['name']}({', '.join(f'{k}={v!r}' for k, v in (call['arguments'] or {}).items())})"


def _about(item: Item) -> dict[str, Any]:
    return item.about | ({"turn": item.turn, "talk": item.talk} if item.turn else {})


def _measures(item: Item, reply: Reply, known: Known) -> dict[str, Any]:
    if not item.style or not reply.text.strip():
        return {}
    told = known.styles
    return {"style": item.style, "told": told.told(reply.text), "distance": told.distance(reply.text, item.style)}


async def ask_all(
    items: Sequence[Item],
    ask: Callable[[Item, list[Message]], Awaitable[Reply]],
    file: Path,
    answered: Callable[[], None] = lambda: None,
    known: Known = NOTHING_KNOWN,
    at_a_time: int = CONCURRENCY,
) -> None:
    """Every item that has no answer in `file` yet gets one, `ask(item, what was said before)`; then `answered`.

    The first item is asked alone: when it is answered, the prefix all prompts share lies in the server's cache. The
    turns of a conversation are asked one after the other, each after the model's own answers.
    """
    done = {answer.id: answer for answer in read_answers(file)}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()

    async def one(item: Item, before: list[Message]) -> Answer:
        answer = judge(item, await ask(item, before), known)
        jsonl.append(file, asdict(answer))
        answered()
        return answer

    async def talk(turns: Sequence[Item]) -> None:
        before: list[Message] = []
        for item in turns:
            answer = done.get(item.id) or await one(item, before)
            before = before + said(item, answer)

    missing = [turns for turns in _talks(items) if turns[-1].id not in done]
    for turns in missing[:1]:
        await talk(turns)
    queue = iter(missing[1:])
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_a_time):
                group.create_task(_work(queue, talk))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None  # the rest failed for the same reason


def _talks(items: Sequence[Item]) -> list[list[Item]]:
    """The items by conversation; most have one turn."""
    talks: list[list[Item]] = []
    for item in items:
        if item.turn == 0:
            talks.append([])
        talks[-1].append(item)
    return talks


def request(item: Item) -> Message:
    """What the user says."""
    return {"role": "user", "content": f"{item.context}\n\n{item.text}" if item.context else item.text}


def said(item: Item, answer: Answer) -> list[Message]:
    """One turn as the next one's past; a call is told to have been done."""
    if not answer.calls:
        return [request(item), {"role": "assistant", "content": answer.text or "…"}]
    calls = [
        {"function": {"name": wire_name(call["name"]), "arguments": call["arguments"] or {}}} for call in answer.calls
    ]
    results = [{"role": "tool", "content": '{"status": "ok"}'} for _ in calls]
    return [request(item), {"role": "assistant", "content": answer.text, "tool_calls": calls}, *results]


def read_answers(file: Path) -> list[Answer]:
    """The whole answers in a file, one an item; what a crash cut off is removed from it."""
    jsonl.remove_cut_line(file)
    answers = [Answer(**record) for record in jsonl.read(file)]
    return list({answer.id: answer for answer in answers}.values())


async def _work(queue: Iterable[Sequence[Item]], talk: Callable[[Sequence[Item]], Awaitable[None]]) -> None:
    for turns in queue:  # the iterator is shared: each worker takes the next one
        await talk(turns)
