"""Many prompts to one model: resumed where it was interrupted, several at a time, within a budget."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneline.core import jsonl
from tuneline.core.errors import BadData, BadRequest, StageFailed, TunelineError
from tuneline.core.user_files import parse_json
from tuneline.engines.providers import Chat

KEYS = ("prompt", "messages", "system", "tools", "max_tokens", "temperature", "seed", "id")
MAX_FAILURES = 20
"""In a row; then the server is taken to be gone."""


@dataclass(frozen=True)
class BatchPrompt:
    """A line of the input; `key` is the same for the same request."""

    number: int
    key: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    sampling: dict[str, Any]
    given_id: Any = None


@dataclass
class BatchReport:
    """What a batch came to."""

    done: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_over_budget: bool = False


def read_prompts(file: Path, model: str) -> list[BatchPrompt]:
    """Return the prompts of a JSON-lines file: each line has `prompt` or `messages`, and perhaps sampling.

    Raises:
        BadData: no such file, or a line that is no prompt.
    """
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise BadData(f"{file}: cannot be read: {error.strerror}") from None
    return [_read_prompt(line, number, file, model) for number, line in enumerate(lines, 1) if line.strip()]


async def run_batch(
    chat: Chat,
    prompts: list[BatchPrompt],
    to: Path,
    *,
    concurrency: int,
    max_tokens: int,
    budget_tokens: int | None,
    progress: Callable[[], None] = lambda: None,
) -> BatchReport:
    """Ask for what `to` does not have yet, and append each answer as it comes; return what happened.

    Raises:
        StageFailed: nothing was answered for a while. BadRequest: `to` is of another batch.
    """
    report = BatchReport()
    answered = _read_answered(to, report)
    if answered and not answered & {prompt.key for prompt in prompts}:
        raise BadRequest(f"{to}: has answers to other prompts or of another model; give another file with --to")
    todo = iter([prompt for prompt in prompts if prompt.key not in answered])
    report.skipped = sum(prompt.key in answered for prompt in prompts)
    failures = 0

    async def work() -> None:
        nonlocal failures
        for prompt in todo:
            if budget_tokens is not None and report.prompt_tokens + report.completion_tokens >= budget_tokens:
                report.is_over_budget = True
                return
            if failures >= MAX_FAILURES:
                return
            try:
                answer = await chat.ask(prompt.messages, prompt.tools, **{"max_tokens": max_tokens} | prompt.sampling)
            except TunelineError as error:
                failures += 1
                report.failed.append(f"line {prompt.number}: {error}")
                continue
            failures = 0
            report.done += 1
            report.prompt_tokens += answer.prompt_tokens
            report.completion_tokens += answer.completion_tokens
            jsonl.append(to, _to_record(prompt, answer))
            progress()

    await asyncio.gather(*(work() for _ in range(concurrency)))
    if failures >= MAX_FAILURES:
        last = report.failed[-1]
        raise StageFailed(f"{MAX_FAILURES} requests failed one after another, the last: {last}; then run it again")
    return report


def _read_answered(to: Path, report: BatchReport) -> set[str]:
    to.parent.mkdir(parents=True, exist_ok=True)
    jsonl.remove_cut_line(to)
    keys = set()
    for record in jsonl.read(to, skip_broken=True):
        if isinstance(record, dict) and isinstance(record.get("key"), str):
            keys.add(record["key"])
            report.prompt_tokens += record.get("prompt_tokens", 0)
            report.completion_tokens += record.get("completion_tokens", 0)
    return keys


def _to_record(prompt: BatchPrompt, answer: Any) -> dict[str, Any]:
    record = {"line": prompt.number, "key": prompt.key, "text": answer.text, "finish_reason": answer.finish_reason}
    record |= {"id": prompt.given_id} if prompt.given_id is not None else {}
    if answer.tool_calls:
        record["tool_calls"] = [{"name": call.name, "arguments": call.arguments} for call in answer.tool_calls]
    return record | {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}


def _read_prompt(line: bytes, number: int, file: Path, model: str) -> BatchPrompt:
    try:
        value = parse_json(line)
        value = {"prompt": value} if isinstance(value, str) else value
        messages = list(_read_messages(value))
    except ValueError as error:
        raise BadData(f"{file}:{number}: {error}") from None
    sampling = {key: value[key] for key in ("max_tokens", "temperature", "seed") if key in value}
    request = json.dumps([model, number, messages, value.get("tools"), sampling], sort_keys=True)
    key = hashlib.sha256(request.encode()).hexdigest()[:16]
    return BatchPrompt(number, key, messages, value.get("tools"), sampling, value.get("id"))


def _read_messages(value: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(value, Mapping) or ("prompt" in value) == ("messages" in value):
        raise ValueError('a line is {"prompt": "…"} or {"messages": [{"role": …, "content": …}]}')
    if unknown := [key for key in value if key not in KEYS]:
        raise ValueError(f"{unknown[0]}: unknown key; known are {', '.join(KEYS)}")
    if value.get("system"):
        yield {"role": "system", "content": value["system"]}
    if "prompt" in value:
        yield {"role": "user", "content": value["prompt"]}
        return
    written = value["messages"]
    if not isinstance(written, list) or not all(isinstance(message, dict) and "role" in message for message in written):
        raise ValueError("messages: a list of {role, content}")
    yield from written
