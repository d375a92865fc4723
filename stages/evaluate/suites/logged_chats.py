"""Logged chats as a suite: what was said before the last assistant turn is the request, that turn the right answer."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from tuneline.configs.catalogue import dotted_name
from tuneline.configs.data import Source
from tuneline.configs.evaluation import Suite
from tuneline.core.errors import BadRecipe
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.suites.run_context import RunContext, estimate_tokens
from tuneline.stages.prepare.checks.problems import Problem
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.formats.reader import read_source
from tuneline.stages.prepare.rows import Row

SHOWN_PROBLEMS = 5
LONGER_ANSWER = 1.5
"""Tokens an answer may take, over those of the logged one."""


def logged_items(suite: Suite, run_context: RunContext) -> Iterator[Item]:
    """Yield an item for each chat in the suite's file or folder.

    Before a run is prepared its training rows may still bring tools: unknown ones are no error then.

    Raises:
        BadRecipe: a chat has errors, calls or lists a tool that the run does not have, or there is no chat.
    """
    tools = run_context.catalogue
    results = list(read_source(Source(path=suite.path), Toolbox(tools)))
    errors = [result for result in results if isinstance(result, Problem) and result.severity == "error"]
    problems = [str(error) for error in errors if run_context.prepared or error.kind != "unknown_tool"]
    if problems:
        more = [f"… and {len(problems) - SHOWN_PROBLEMS} more"] if len(problems) > SHOWN_PROBLEMS else []
        raise BadRecipe("\n".join(f"suite {suite.name}: {line}" for line in [*problems[:SHOWN_PROBLEMS], *more]))
    chats = (result for result in results if not isinstance(result, Problem) and result.row.messages)
    items = [_to_item(chat.row, f"{chat.file}:{chat.line}", suite, run_context) for chat in chats]
    if not items and not errors:
        raise BadRecipe(f"suite {suite.name}: {suite.path}: contains no chats; see docs/suites.md")
    yield from islice(items, suite.rows)


def _to_item(row: Row, place: str, suite: Suite, run_context: RunContext) -> Item:
    *before, answer = row.chat()
    known = run_context.catalogue.tools if run_context.catalogue else {}
    unknown = [tool for tool in row.tools if isinstance(tool, str) and tool not in known]
    if unknown and run_context.prepared:
        raise BadRecipe(f"suite {suite.name}: {place}: tool {unknown[0]!r} is not among the run's (data.tools)")
    text = next((str(turn.get("content") or "") for turn in reversed(before) if turn["role"] == "user"), "")
    calls = [_to_call(call) for call in answer.get("tool_calls") or ()]
    reference = None if calls else str(answer["content"])
    return Item(
        id="",
        text=text,
        tool=calls[0]["name"] if len(calls) == 1 else None,
        arguments=calls[0]["arguments"] if len(calls) == 1 else None,
        calls=tuple(calls) if len(calls) > 1 else (),
        phrasing=text,
        reference=reference,
        messages=tuple(before),
        min_chrf=suite.min_chrf,
        shown_tools=tuple(row.tools) or None,
        max_tokens=round(LONGER_ANSWER * estimate_tokens(reference or "")),
    )


def _to_call(call: dict[str, Any]) -> dict[str, Any]:
    return {"name": dotted_name(call["function"]["name"]), "arguments": call["function"]["arguments"]}
