"""Examples written by a model of any provider, within a budget; what fails its tool's schema is dropped.

Every request is kept in `TUNELINE_CACHE/synthesis/KEY.jsonl`: a line a request, with what was sent, what came and what
it cost. It is also the memory: the same recipe asks for nothing twice.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import Catalogue, Tool
from tuneline.configs.data import Data, Source
from tuneline.core import jsonl, paths
from tuneline.core.errors import StageFailed
from tuneline.stages.prepare.checks.row_checks import Toolbox
from tuneline.stages.prepare.rows import Row, row_of
from tuneline.stages.prepare.synthesis.grammar import Request

EXAMPLES_A_REQUEST = 10
ANSWER_TOKENS = 1600
"""The longest answer that is paid for."""
CHARACTERS_A_TOKEN = 2.0
"""Few on purpose: a request is taken for dearer than it is, so that the budget holds."""
LANGUAGES = {"en": "English", "it": "Italian", "id": "Indonesian"}

PROMPT = """Write {count} different requests in {language} that people would send to an assistant, each of which is \
answered by exactly one call of this tool:

{tool}

Answer with a JSON array and nothing else: [{{"text": "…", "arguments": {{…}}}}, …]. Values of arguments stand in the \
text word for word. Vary wording, length and tone. Batch {number}."""


def hired(source: Source, catalogue: Catalogue, data: Data) -> Iterator[Row]:
    """Rows for each tool of the catalogue, `source.per_tool` of them if the budget lasts.

    Raises:
        StageFailed: the budget bought no example at all.
    """
    toolbox, seen, made = Toolbox(catalogue), set[str](), 0
    for answer in asyncio.run(_answers(source, catalogue)):
        for example in _examples(answer["text"]):
            request = _request(answer["tool"], example, toolbox)
            if request and request.text not in seen:
                seen.add(request.text)
                made += 1
                yield row_of(request, data.system, "synthesis")
    if not made:
        assert source.synthesize
        raise StageFailed(
            f"synthesize: {source.synthesize.budget_usd:g} USD bought no example that fits its tool; "
            f"see {audit(source, catalogue)}"
        )


def audit(source: Source, catalogue: Catalogue) -> Path:
    """Where the requests of a source are kept."""
    assert source.synthesize
    what = [source.synthesize.provider, source.synthesize.model, source.per_tool, source.languages]
    key = hashlib.sha256(json.dumps([what, catalogue.openai()], sort_keys=True).encode()).hexdigest()[:16]
    return paths.cache() / "synthesis" / f"{key}.jsonl"


async def _answers(source: Source, catalogue: Catalogue) -> list[dict[str, Any]]:
    """Answers to all requests the budget allows, those kept from an earlier time first."""
    from tuneline.engines.providers import find_provider

    assert source.synthesize and source.per_tool
    settings, file = source.synthesize, audit(source, catalogue)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    jsonl.end_cut_line(file)
    kept = jsonl.read(file, skip_broken=True)
    known, spent = {one["prompt"] for one in kept}, sum(one["cost_usd"] for one in kept)
    async with find_provider(settings.provider).connect(settings.model) as chat:
        for tool, prompt in _prompts(source, catalogue):
            if prompt in known:
                continue
            most = _cost(source, len(prompt) / CHARACTERS_A_TOKEN, ANSWER_TOKENS)
            if spent + most > settings.budget_usd:
                break
            told = await chat.ask([{"role": "user", "content": prompt}], max_tokens=ANSWER_TOKENS, temperature=1.0)
            # A server that does not count is paid as if it had used all it could.
            cost = _cost(source, told.prompt_tokens, told.completion_tokens) if told.completion_tokens else most
            spent += cost
            kept.append({"tool": tool, "prompt": prompt, "text": told.text, "cost_usd": cost})
            jsonl.append(file, kept[-1])
    return kept


def _prompts(source: Source, catalogue: Catalogue) -> Iterator[tuple[str, str]]:
    """(tool, prompt), all tools in turn, so that a budget that ends early ends evenly."""
    assert source.per_tool
    for number in range(-(-source.per_tool // EXAMPLES_A_REQUEST)):
        for position, (name, tool) in enumerate(catalogue.tools.items()):
            language = source.languages[(number + position) % len(source.languages)]
            count = min(EXAMPLES_A_REQUEST, source.per_tool - number * EXAMPLES_A_REQUEST)
            yield (
                name,
                PROMPT.format(count=count, language=LANGUAGES[language], tool=_shown(name, tool), number=number + 1),
            )


def _shown(name: str, tool: Tool) -> str:
    return json.dumps({"name": name, **tool.model_dump()}, ensure_ascii=False)


def _cost(source: Source, prompt_tokens: float, answer_tokens: float) -> float:
    assert source.synthesize
    of = source.synthesize
    return (prompt_tokens * of.usd_per_million_input + answer_tokens * of.usd_per_million_output) / 1e6


def _examples(text: str) -> list[Any]:
    """The array in an answer; none where there is none."""
    begin, end = text.find("["), text.rfind("]")
    try:
        found = json.loads(text[begin : end + 1])
    except ValueError:
        return []
    return found if isinstance(found, list) else []


def _request(tool: str, example: Any, toolbox: Toolbox) -> Request | None:
    """The example as a request, if it fits the tool's schema and its arguments stand in its text."""
    if not isinstance(example, dict) or not isinstance(example.get("text"), str) or not example["text"].strip():
        return None
    arguments = example.get("arguments")
    if not isinstance(arguments, dict) or toolbox.faults_of(tool, arguments):
        return None
    if any(isinstance(value, str) and value not in example["text"] for value in arguments.values()):
        return None
    return Request(example["text"], tool, arguments, example["text"])
