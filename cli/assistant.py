"""A conversation with the assistant in the terminal: its answers, its calls, and a question before a dangerous one."""

import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tuneline.cli.consoles import console
from tuneline.configs.catalogue import Catalogue, load_catalogue
from tuneline.core.errors import BadRequest
from tuneline.endpoints.assistant.documents import Documents
from tuneline.endpoints.assistant.events import Called, Done, Event, Limits, Memory, Returned, Text, Waiting
from tuneline.endpoints.assistant.handler_sources import Handlers, open_handlers
from tuneline.endpoints.assistant.learned_tools import LearnedTools, read_learned_tools
from tuneline.endpoints.assistant.loop import Assistant
from tuneline.endpoints.assistant.mcp_server import build_server, serve_http, serve_stdio
from tuneline.endpoints.assistant.store import Pending, Store
from tuneline.endpoints.assistant.trace import Trace
from tuneline.endpoints.prompts import STYLE, find_prompt, find_style
from tuneline.endpoints.tool_selection import ToolSelector
from tuneline.engines.own_key import own_key
from tuneline.engines.providers import find_provider

DATABASE = "assistant.db"
LOCAL_OWNER = "local"
"""Owner of the conversations of this terminal; keys of the gateway have names that a person gave them."""
STYLE_COMMAND = "/style "
SHOWN_RESULT = 200
"""Characters of a result in the terminal."""
WHY_ENDED = {
    "rounds": "it reached the limit of rounds",
    "tokens": "it reached the limit of tokens",
    "length": "the answer was cut at its limit of tokens",
}


@dataclass(frozen=True)
class Setup:
    """What a conversation is held with."""

    handlers: tuple[str, ...]
    provider: str
    model: str
    folder: Path
    catalogue: Catalogue | None = None
    selector: ToolSelector | None = None
    unconfirmed: tuple[str, ...] = ()
    knowledge: Path | None = None
    prompt: str | None = None
    style: str | None = None
    limits: Limits | None = None
    picks_only: bool = False


def make_setup(
    handlers: list[str] | None,
    url: str,
    model: str,
    folder: Path,
    run: str | None,
    catalogue: Path | None,
    unconfirmed: list[str] | None,
    knowledge: Path | None,
    prompt: str | None,
    style: str | None,
    picks_only: bool,
    memory: Memory = "drop",
) -> Setup:
    """Return what a command's options say.

    Raises:
        BadRequest: no handlers, or tools of a run and of a catalogue. NotFound: no such run, prompt or style.
    """
    if not handlers:
        raise BadRequest("--handlers: give what runs the calls: a module, an OpenAPI file, mcp:COMMAND")
    if run and catalogue:
        raise BadRequest("--catalogue: a run has its own; leave one of the two out")
    for named, find in ((prompt, find_prompt), (style, find_style)):
        if named:
            find(named)
    learned = read_learned_tools(run) if run else LearnedTools()
    return Setup(
        handlers=tuple(handlers),
        provider=url,
        model=model,
        folder=folder,
        catalogue=load_catalogue(catalogue) if catalogue else learned.catalogue,
        selector=learned.selector,
        unconfirmed=tuple(unconfirmed or ()),
        knowledge=knowledge,
        prompt=prompt,
        style=style,
        limits=Limits(memory=memory),
        picks_only=picks_only or learned.picks_only,
    )


@asynccontextmanager
async def open_assistant(setup: Setup) -> AsyncIterator[tuple[Assistant, Handlers, Store]]:
    """Yield an assistant with its handlers and its store, open until the context is left."""
    async with AsyncExitStack() as stack:
        handlers = await stack.enter_async_context(open_handlers(setup.handlers, setup.catalogue, setup.unconfirmed))
        provider = find_provider(setup.provider)
        chat = await stack.enter_async_context(provider.connect(setup.model, key=own_key(provider.base_url)))
        store = Store(setup.folder / DATABASE)
        stack.callback(store.close)
        assistant = Assistant(
            chat,
            handlers,
            store,
            Trace(setup.folder),
            selector=setup.selector,
            documents=Documents(setup.knowledge) if setup.knowledge else None,
            prompt=setup.prompt,
            limits=setup.limits,
            picks_only=setup.picks_only,
        )
        yield assistant, handlers, store


async def hold_conversation(
    setup: Setup, questions: Iterable[str], confirm: Callable[[str], bool], conversation: str | None = None
) -> str | None:
    """Ask questions in one conversation and print what happens; return the conversation's id, None without questions.

    `confirm` is asked before each call that waits. A question `/style NAME` changes the style of what follows.
    """
    style = setup.style
    async with open_assistant(setup) as (assistant, _, _):
        for question in questions:
            if question.startswith(STYLE_COMMAND):
                style = find_style(question.removeprefix(STYLE_COMMAND).strip()).name.removeprefix(STYLE)
                continue
            conversation = await _hold(
                assistant, assistant.ask(LOCAL_OWNER, question, conversation, style=style), confirm
            )
    return conversation


async def confirm_call(setup: Setup, pending: str, confirm: Callable[[str], bool]) -> str:
    """Run a call that waits since earlier, if `confirm` says so, and go on; return the conversation's id."""
    async with open_assistant(setup) as (assistant, _, store):
        call = store.find_waiting(LOCAL_OWNER, pending)
        events = assistant.confirm(LOCAL_OWNER, pending, confirm(describe(call)))
        return await _hold(assistant, events, confirm)


async def serve_mcp(setup: Setup, port: int | None) -> None:
    """Offer handlers and assistant to clients of MCP: over standard input and output, or at a port of loopback."""
    async with open_assistant(setup) as (assistant, handlers, store):
        server = build_server(assistant, handlers, store, LOCAL_OWNER)
        await (serve_stdio(server) if port is None else serve_http(server, port))


async def _hold(assistant: Assistant, events: AsyncIterator[Event], confirm: Callable[[str], bool]) -> str:
    """Print what happens, ask for each call that waits, and go on until none does; return the conversation's id."""
    conversation, waiting = await _print_events(events)
    while waiting:
        pending = waiting.pop(0)
        conversation, more = await _print_events(assistant.confirm(LOCAL_OWNER, pending.id, confirm(describe(pending))))
        waiting += more
    return conversation


def describe(pending: Pending) -> str:
    """Return a call as a line that a person decides on: all of it, since this is what will run."""
    return f"{pending.name}({json.dumps(pending.arguments, ensure_ascii=False)})"


async def _print_events(events: AsyncIterator[Event]) -> tuple[str, list[Pending]]:
    """Print what happens; return the conversation's id and the calls that wait."""
    waiting: list[Pending] = []
    has_text, conversation = False, ""
    async for event in events:
        if has_text and not isinstance(event, Text):
            console.print()
            has_text = False
        if isinstance(event, Text):
            console.print(event.text if has_text else f"model {event.text}", end="", soft_wrap=True)
            has_text = True
        elif isinstance(event, Called):
            console.print(f"call  {event.name}({json.dumps(event.arguments, ensure_ascii=False)})", soft_wrap=True)
        elif isinstance(event, Returned):
            console.print(f"{'    →' if event.ok else '    !'} {event.text[:SHOWN_RESULT]}", soft_wrap=True)
        elif isinstance(event, Waiting):
            console.print(f"waits {describe(event.pending)}: {event.reason}", soft_wrap=True)
            waiting.append(event.pending)
        elif isinstance(event, Done):
            conversation = event.conversation
            if event.sources:
                console.print(f"from  {', '.join(event.sources)}", soft_wrap=True)
            if event.reason in WHY_ENDED:
                console.print(f"      {WHY_ENDED[event.reason]}", soft_wrap=True)
    return conversation, waiting
