"""Synthetic rows written by an LLM of any provider, within a budget. Examples that violate a tool's schema are dropped.

Every request to the provider is logged in `TUNELINE_CACHE/synthesis/KEY.jsonl`, one a line, with prompt, answer and
cost. The log is also a cache: the same recipe sends no prompt twice.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import Catalogue
from tuneline.configs.data import Data, Source
from tuneline.core import jsonl, paths
from tuneline.core.current_run import current_run
from tuneline.core.errors import StageFailed
from tuneline.core.redaction import redact_url
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.rows import Row
from tuneline.stages.prepare.synthesis.requests import Request, to_row

EXAMPLES_A_REQUEST = 10
ANSWER_TOKENS = 1600
"""Most tokens of an answer."""
CHARACTERS_A_TOKEN = 2.0
"""Low on purpose: it overestimates the cost of a request, so that the budget is not exceeded."""
LANGUAGES = {"en": "English", "it": "Italian", "id": "Indonesian"}

PROMPT = """Write {count} different requests in {language} that people would send to an assistant, each of which is \
answered by exactly one call of this tool:

{tool}

Answer with a JSON array and nothing else: [{{"text": "…", "arguments": {{…}}}}, …]. Values of arguments appear in \
the text word for word. Vary wording, length and tone. Batch {number}."""


def write_rows(source: Source, catalogue: Catalogue, data: Data) -> Iterator[Row]:
    """Yield rows for each tool of the catalogue, `source.per_tool` of them if the budget lasts.

    Raises:
        StageFailed: No valid example was written within the budget.
    """
    toolbox, texts = Toolbox(catalogue), set[str]()
    for answer in asyncio.run(_answers(source, catalogue)):
        for example in _parse_examples(answer["text"]):
            request = _validate(answer["tool"], example, toolbox)
            if request and request.text not in texts:
                texts.add(request.text)
                yield to_row(request, data.system, "synthesis")
    if not texts:
        assert source.synthesize
        raise StageFailed(
            f"synthesize: {source.synthesize.budget_usd:g} USD were spent without one example that fits its "
            f"tool; see {request_log(source, catalogue)}"
        )


def request_log(source: Source, catalogue: Catalogue) -> Path:
    """Return the file in which the requests for a source are logged."""
    assert source.synthesize
    settings = [redact_url(source.synthesize.provider), source.synthesize.model, source.per_tool, source.languages]
    key = hashlib.sha256(json.dumps([settings, catalogue.openai()], sort_keys=True).encode()).hexdigest()[:16]
    return paths.cache() / "synthesis" / f"{key}.jsonl"


async def _answers(source: Source, catalogue: Catalogue) -> list[dict[str, Any]]:
    """Return the log entries of all requests the budget allows, first those of earlier runs."""
    from tuneline.engines.providers import find_provider

    assert source.synthesize and source.per_tool
    settings, file = source.synthesize, request_log(source, catalogue)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    jsonl.end_cut_line(file)
    entries = jsonl.read(file, skip_broken=True)
    answered, spent_usd = {entry["prompt"] for entry in entries}, sum(entry["cost_usd"] for entry in entries)
    async with find_provider(settings.provider).connect(settings.model) as chat:
        for tool, prompt in _prompts(source, catalogue):
            if prompt in answered:
                continue
            bound = _cost_usd(source, len(prompt) / CHARACTERS_A_TOKEN, ANSWER_TOKENS)
            if spent_usd + bound > settings.budget_usd:
                break
            messages = [{"role": "user", "content": prompt}]
            reply = await chat.ask(messages, max_tokens=ANSWER_TOKENS, temperature=1.0)
            # A server that does not report usage is charged the upper bound.
            counted = reply.completion_tokens
            cost_usd = _cost_usd(source, reply.prompt_tokens, reply.completion_tokens) if counted else bound
            spent_usd += cost_usd
            entries.append({"tool": tool, "prompt": prompt, "text": reply.text, "cost_usd": cost_usd})
            paid = {"model": settings.model, "run": current_run.get(), "at": time.time()}
            jsonl.append(file, entries[-1] | paid)
    return entries


def _prompts(source: Source, catalogue: Catalogue) -> Iterator[tuple[str, str]]:
    """Yield (tool, prompt), cycling through the tools, so that a small budget is spent evenly on them."""
    assert source.per_tool
    for number in range(-(-source.per_tool // EXAMPLES_A_REQUEST)):
        for position, (name, tool) in enumerate(catalogue.tools.items()):
            language = source.languages[(number + position) % len(source.languages)]
            count = min(EXAMPLES_A_REQUEST, source.per_tool - number * EXAMPLES_A_REQUEST)
            schema = json.dumps({"name": name, **tool.model_dump()}, ensure_ascii=False)
            yield name, PROMPT.format(count=count, language=LANGUAGES[language], tool=schema, number=number + 1)


def _cost_usd(source: Source, prompt_tokens: float, answer_tokens: float) -> float:
    settings = source.synthesize
    assert settings
    return (prompt_tokens * settings.usd_per_million_input + answer_tokens * settings.usd_per_million_output) / 1e6


def _parse_examples(text: str) -> list[Any]:
    """Return the items of the JSON array in an answer; an empty list if there is none."""
    begin, end = text.find("["), text.rfind("]")
    try:
        examples = json.loads(text[begin : end + 1])
    except ValueError:
        return []
    return examples if isinstance(examples, list) else []


def _validate(tool: str, example: Any, toolbox: Toolbox) -> Request | None:
    """Return the example as a request, or None unless it fits the tool's schema and its text has all text arguments."""
    if not isinstance(example, dict) or not isinstance(example.get("text"), str) or not example["text"].strip():
        return None
    arguments = example.get("arguments")
    if not isinstance(arguments, dict) or toolbox.check_arguments(tool, arguments):
        return None
    if any(isinstance(value, str) and value not in example["text"] for value in arguments.values()):
        return None
    return Request(example["text"], tool, arguments, example["text"])
