"""An assistant before a scripted model, with handlers that do what handlers do wrong."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.scripted_model import Script, ScriptedModel, results, serve_script
from tuneline.endpoints.assistant.events import Event
from tuneline.endpoints.assistant.handler_sources import open_handlers
from tuneline.endpoints.assistant.loop import Assistant
from tuneline.endpoints.assistant.store import Store
from tuneline.endpoints.assistant.trace import Trace
from tuneline.engines.providers import find_provider

HANDLERS = '''
import asyncio, sys, threading, time
from tuneline.endpoints.assistant import handler

ran = []

@handler("rates.get")
def rates(currency: str) -> dict:
    """Look up a rate."""
    ran.append(("rates.get", currency))
    return {"currency": currency, "rate": 16250}

@handler("money.send", confirm=True)
async def send(to: str, amount: int) -> str:
    """Send money."""
    ran.append(("money.send", to, amount))
    return f"sent {amount} to {to}"

@handler("slow.wait", timeout_s=5)
async def wait(seconds: float) -> str:
    """Wait."""
    await asyncio.sleep(seconds)
    return "waited"

@handler("bad.hang", timeout_s=0.2)
def hang() -> str:
    """Hang."""
    threading.Event().wait()

@handler("bad.stubborn", timeout_s=0.2)
async def stubborn() -> str:
    """Refuse to end."""
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

@handler("bad.raise")
def fail() -> str:
    """Raise."""
    raise ValueError("no such account")

@handler("bad.exit")
def leave() -> str:
    """Exit."""
    sys.exit(3)

@handler("bad.large")
def large() -> str:
    """Return much."""
    return "x" * 10_000_000

@handler("bad.cancel")
async def cancel() -> str:
    """End as libraries for time-outs do."""
    raise asyncio.CancelledError

@handler("bad.half")
def half() -> str:
    """Return half a character."""
    return "half \\ud83d"

@handler("bad.file")
def file() -> str:
    """Name a file that is not named in UTF-8."""
    raise FileNotFoundError(2, "no such file", "half \\udcff")

@handler("page.link")
def link() -> str:
    """Return JSON with an address."""
    return '{"next": "https://user:pass@example.org/?page=2"}'

@handler("page.read")
def read() -> str:
    """Read a page."""
    return PAGE

PAGE = "nothing"
'''


def write_handlers(folder: Path) -> Iterator[Path]:
    """Write a module of `HANDLERS` with a name of its own, and forget what was imported of it."""
    name = f"handlers_of_{abs(hash(str(folder)))}"
    (folder / f"{name}.py").write_text(HANDLERS)
    yield folder / f"{name}.py"
    sys.modules.pop(name, None)


def loaded(module: Path) -> Any:
    return sys.modules[module.stem]


@asynccontextmanager
async def assistant(
    module: Path | str, model: ScriptedModel, folder: Path, **options: Any
) -> AsyncIterator[tuple[Assistant, Store]]:
    async with (
        open_handlers([str(module)], options.pop("catalogue", None)) as handlers,
        find_provider(model.url).connect("m") as chat,
    ):
        store = Store(folder / "assistant.db")
        yield Assistant(chat, handlers, store, Trace(folder), **options), store
        store.close()


async def collect(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


def run(module: Path, script: Script, folder: Path, **options: Any) -> tuple[list[Event], ScriptedModel]:
    async def ask() -> list[Event]:
        async with assistant(module, model, folder, **options) as (answering, _):
            return await collect(answering.ask("ann", "go"))

    with serve_script(script) as model:
        return asyncio.run(ask()), model


def once(*calls: tuple[str, Any]) -> Script:
    """A model that makes these calls, then says what they returned."""
    return lambda request: "; ".join(results(request)) if results(request) else list(calls)
