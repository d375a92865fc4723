"""One answer: asked through the gateway, and written into its turn while it arrives.

The task belongs to the conversation, not to the browser's page: who reloads it finds the answer growing.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from tuneline.core.errors import TunelineError
from tuneline.endpoints.prompts import find_style
from tuneline.ui.conversation import Conversation, ToolCall, Turn, WaitingCall
from tuneline.ui.gateway_client import CONVERSATION, STYLE, Began
from tuneline.ui.models import ASSISTANT, Catalogue, Model, Models

Chunks = AsyncIterator[Began | dict[str, Any]]
Save = Callable[[Conversation], None]


class Answering:
    """The answers that are arriving, by conversation."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def ask(self, conversation: Conversation, model: Model, save: Save) -> None:
        """Begin to answer the conversation's last turn."""
        self._begin(conversation, self._ask(conversation, conversation.turns[-1], model), save)

    def decide(self, conversation: Conversation, model: Model, call: str, confirm: bool, save: Save) -> None:
        """Begin to run a call that waits, or to decline it, and go on with the turn."""
        turn = conversation.turns[-1]
        turn.waiting = [waiting for waiting in turn.waiting if waiting.id != call]
        chunks = model.client.stream_decision(call, confirm)
        self._begin(conversation, _read(conversation, turn, chunks, time.monotonic()), save)

    def stop(self, conversation: Conversation) -> None:
        """Stop the answer; what has arrived stays."""
        if task := self._tasks.get(conversation.id):
            task.cancel()

    def _begin(self, conversation: Conversation, work: Any, save: Save) -> None:
        turn = conversation.turns[-1]
        turn.state, turn.problem = "running", ""
        task = asyncio.create_task(_finish(conversation, turn, work, save))
        self._tasks[conversation.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(conversation.id, None))

    async def _ask(self, conversation: Conversation, turn: Turn, model: Model) -> None:
        tools = await self._models.prepare(model)
        body, headers = make_request(conversation, turn, model, tools)
        await _read(conversation, turn, model.client.stream_chat(body, headers), time.monotonic())


def make_request(
    conversation: Conversation, turn: Turn, model: Model, tools: Catalogue | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the body and the headers that ask for a turn's answer."""
    messages = conversation.messages()
    if not model.is_run and model.name == ASSISTANT:
        headers = {CONVERSATION: conversation.assistant} if conversation.assistant else {}
        headers |= {STYLE: turn.style} if turn.style else {}
        messages = messages[-1:] if conversation.assistant else messages
        return {"model": model.name, "messages": messages}, headers
    if turn.style:
        messages = [{"role": "system", "content": find_style(turn.style).render()}, *messages]
    body = {"model": model.name, "messages": messages, "stream_options": {"include_usage": True}}
    return body | ({"tools": tools} if tools else {}), {}


async def _finish(conversation: Conversation, turn: Turn, work: Any, save: Save) -> None:
    try:
        await work
        turn.state = "done"
    except asyncio.CancelledError:
        turn.state = "stopped"
    except TunelineError as error:
        turn.state, turn.problem = "failed", str(error)
    except Exception:
        turn.state, turn.problem = "failed", "the page failed; its terminal has more"
        raise
    finally:
        await asyncio.to_thread(save, conversation)


async def _read(conversation: Conversation, turn: Turn, chunks: Chunks, began: float) -> None:
    async for chunk in chunks:
        if isinstance(chunk, Began):
            turn.request = chunk.request or turn.request
            conversation.assistant = chunk.conversation or conversation.assistant
        else:
            _add_chunk(turn, chunk, time.monotonic() - began)
        turn.seconds = time.monotonic() - began


def _add_chunk(turn: Turn, chunk: dict[str, Any], elapsed_s: float) -> None:
    step = chunk.get("tuneline") or {}
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        if "waiting" not in step or isinstance(step["waiting"], list):  # its text repeats what the buttons say
            turn.answer += delta.get("content") or ""
        if turn.first_token_s is None and (delta.get("content") or delta.get("tool_calls")):
            turn.first_token_s = elapsed_s
        for piece in delta.get("tool_calls") or ():
            _add_call_piece(turn, piece)
    if usage := chunk.get("usage"):
        turn.tokens = int(usage.get("completion_tokens") or 0)
    _add_step(turn, step)


def _add_call_piece(turn: Turn, piece: dict[str, Any]) -> None:
    """Add a piece of a model's own call: its first has the name, the others more of the arguments."""
    function, index = piece.get("function") or {}, int(piece.get("index") or 0)
    while len(turn.calls) <= index:
        turn.calls.append(ToolCall(name="", arguments=""))
    turn.calls[index].name += function.get("name") or ""
    turn.calls[index].arguments += function.get("arguments") or ""


def _add_step(turn: Turn, step: dict[str, Any]) -> None:
    """Add what the assistant says of calls: one that runs, its result, one that waits."""
    if called := step.get("called"):
        turn.calls.append(ToolCall(name=called["name"], arguments=_pretty(called["arguments"])))
    if returned := step.get("returned"):
        running = (call for call in turn.calls if call.name == returned["name"] and call.result is None)
        call = next(running, None)
        if call is None:  # refused before it ran
            call = ToolCall(name=returned["name"], arguments="")
            turn.calls.append(call)
        call.result, call.ok = returned["text"], returned["ok"]
    if isinstance(waiting := step.get("waiting"), dict):
        turn.waiting.append(WaitingCall.model_validate(waiting | {"arguments": _pretty(waiting["arguments"])}))
    turn.tokens = int(step.get("tokens") or turn.tokens)


def _pretty(arguments: Any) -> str:
    return json.dumps(arguments, ensure_ascii=False, indent=1)
