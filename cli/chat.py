"""A conversation with a served model in the terminal."""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.cli.consoles import console
from tuneline.core.safe_console import SafeConsole
from tuneline.endpoints.tool_selection import load_tool_selector
from tuneline.stages.prepare.prepared_run import load_tools

if TYPE_CHECKING:
    from tuneline.endpoints.tool_selection import ToolSelector
    from tuneline.engines.providers import Answer

MAX_ANSWER_TOKENS = 256


def chat_with_server(url: str, folder: Path | None, questions: Iterable[str]) -> None:
    """Ask a server questions in one conversation, with the tools of the run in `folder`, or without tools if None."""
    catalogue = load_tools(folder / "prepare") if folder else None
    tools = catalogue.openai() if catalogue else None
    selector = load_tool_selector(folder) if folder else None
    hold_conversation(console, url, folder.name if folder else "default", tools, questions, selector)


def hold_conversation(
    console: SafeConsole,
    url: str,
    model: str,
    tools: list[dict[str, Any]] | None,
    questions: Iterable[str],
    selector: "ToolSelector | None" = None,
) -> None:
    """Ask questions in one conversation through the openai client, and print each answer while it arrives.

    With `selector`, each question is asked with the tools nearest to it. Calls are printed, not made.
    """
    messages: list[dict[str, Any]] = []
    for question in questions:
        messages.append({"role": "user", "content": question})
        question_tools = selector.select(messages, tools) if selector and tools else tools
        # An event loop for each answer: while one runs, Ctrl-C would not end the wait for the next question.
        answer = asyncio.run(_stream_answer(console, url, model, question_tools, messages))
        if answer.tool_calls:
            messages.clear()  # nobody made the call, so there is no result to go on from
        else:
            messages.append({"role": "assistant", "content": answer.text})


async def _stream_answer(
    console: SafeConsole, url: str, model: str, tools: list[dict[str, Any]] | None, messages: list[dict[str, Any]]
) -> "Answer":
    from tuneline.engines.own_key import own_key
    from tuneline.engines.providers import Answer, find_provider

    has_text = False
    async with find_provider(url).connect(model, key=own_key(url)) as client:
        async for piece in client.stream(messages, tools, temperature=0, max_tokens=MAX_ANSWER_TOKENS):
            if isinstance(piece, Answer):
                if has_text:
                    _print_piece(console, "\n")
                for call in piece.tool_calls:
                    _print_piece(console, f"model {call.name}({json.dumps(call.arguments, ensure_ascii=False)})\n")
                return piece
            if piece.text:
                _print_piece(console, piece.text if has_text else f"model {piece.text}")
                has_text = True
    raise AssertionError("a stream ends with the whole answer")


def _print_piece(console: SafeConsole, text: str) -> None:
    console.print(text, end="", soft_wrap=True)
