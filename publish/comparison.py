"""The published model is asked prompts of the run's own evaluation, and compared with what the local model answered.

The local answers are those that `evaluate` kept of the very files that were published, so no model is run here.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from math import ceil

from tuneline.configs.catalogue import Catalogue
from tuneline.core.artifacts import is_finished
from tuneline.core.errors import StaleArtifact
from tuneline.engines.tool_calls import parse_tool_calls
from tuneline.publish.record import Comparison
from tuneline.publish.target import Publication, Question
from tuneline.stages.evaluate.answers import CONCURRENCY, Answer, Reply, answers_file, read_answers
from tuneline.stages.evaluate.clients.openai_client import Prompts, to_reply
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.suites.run_context import open_run_context
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.run_artifacts import open_stage

PROMPTS = 40
"""Asked of a published model, spread evenly over the suites."""
SAME_FILES = 0.9
"""Least share of equal answers where the host computes with our files: sums in another order change a close choice."""
OTHER_PRECISION = 0.7
"""Least share where the host computes in another precision, as in FP8. Measured on demo and SmolLM2 (docs/log.md): Q8_0
gives the 16-bit file's answer to 86 to 97 % of requests, a training with another seed to 47 % at most."""


def compare_answers(publication: Publication, question: Question | None, verified: str = "") -> Comparison:
    """Return how many answers of the published model are the local model's.

    Where nothing answers, that the files were compared (`verified`) is stated instead.

    Raises:
        As `Chat.ask`: the key is refused, there is no such model, or no answer.
    """
    if question is None:
        return _not_compared(verified or "nothing answers there")
    if not is_finished(publication.run / "evaluate"):
        return _not_compared("the run is not evaluated", question.answers_of)
    try:
        local = _choose_answers(publication, question.answers_of)
    except StaleArtifact:
        return _not_compared("the evaluation is of other files than are there now", question.answers_of)
    if not local:
        return _not_compared("no suite has an answer of one turn", question.answers_of)
    context = open_run_context(publication.recipe, publication.run)
    replies = asyncio.run(
        _ask_all(question, [item for item, _ in local], publication.recipe.data.system, context.catalogue)
    )
    different = tuple(
        item.id for (item, answer), reply in zip(local, replies, strict=True) if not _is_same(reply, answer)
    )
    share = SAME_FILES if question.same_files else OTHER_PRECISION
    return Comparison(
        prompts=len(local),
        same=len(local) - len(different),
        required=ceil(share * len(local)),
        answers_of=question.answers_of,
        different=different,
    )


def _not_compared(reason: str, answers_of: str = "") -> Comparison:
    return Comparison(prompts=0, same=0, required=0, answers_of=answers_of, reason=reason)


def _choose_answers(publication: Publication, target: str) -> list[tuple[Item, Answer]]:
    """Return up to `PROMPTS` items of one turn with the local model's answer, the suites in turn."""
    context = open_run_context(publication.recipe, publication.run)
    evaluated, of_suites = open_stage(publication.run, "evaluate").path, []
    for suite in publication.recipe.evaluate.suites:
        answers = {answer.id: answer for answer in read_answers(answers_file(evaluated, suite.name, target))}
        if answers:
            items = make_items(suite, context)
            of_suites.append([(item, answers[item.id]) for item in _of_one_turn(items) if item.id in answers])
    in_turn = chain.from_iterable(zip_longest(*of_suites))
    return [pair for pair in in_turn if pair is not None][:PROMPTS]


def _of_one_turn(items: Sequence[Item]) -> list[Item]:
    later = {item.conversation for item in items if item.turn}
    return [item for item in items if item.conversation not in later]


async def _ask_all(question: Question, items: Sequence[Item], system: str, catalogue: Catalogue | None) -> list[Reply]:
    prompts, gate = Prompts(system, catalogue), asyncio.Semaphore(CONCURRENCY)
    async with question.provider.connect(question.model) as chat:

        async def ask(item: Item) -> Reply:
            sampling = {"temperature": 0, "max_tokens": item.max_tokens} | dict(question.sampling)
            async with gate:
                tools = prompts.tools(item) if question.sends_tools else None
                return _with_calls(to_reply(await chat.ask(prompts.messages(item, []), tools, **sampling)), tools)

        return list(await asyncio.gather(*map(ask, items)))


def _with_calls(reply: Reply, tools: object) -> Reply:
    """Return a reply with the calls in its text, if no tools were sent for the server to look for."""
    if tools or reply.calls:
        return reply
    calls = [{"name": call.name, "arguments": call.arguments} for call in parse_tool_calls(reply.text)]
    return replace(reply, calls=calls) if calls else reply


def _is_same(reply: Reply, answer: Answer) -> bool:
    """Return whether calls, or without any the texts, are equal; the text of a call is the parser's matter."""
    if reply.calls or answer.calls:
        return _calls(reply.calls) == _calls(answer.calls)
    return reply.text.strip() == answer.text.strip()


def _calls(calls: Sequence[Mapping[str, object]]) -> list[tuple[object, object]]:
    return [(call["name"], call["arguments"]) for call in calls]
