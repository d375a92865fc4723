"""Handlers: what runs when a model calls a tool. Functions are here; operations and MCP tools have their own files."""

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from tuneline.configs.catalogue import Tool
from tuneline.core.redaction import redact
from tuneline.stages.prepare.checks.tool_schemas import build_validator
from tuneline.stages.prepare.checks.toolbox import KnownTool
from tuneline.stages.tool_import.python_functions import HANDLER_NAME

TIMEOUT_S = 30.0
"""Of a handler that states no other."""
MAX_ERROR = 500
"""Characters of an error that a model is shown."""
F = TypeVar("F", bound=Callable[..., Any])
Run = Callable[[dict[str, Any]], Awaitable[Any]]


@dataclass(frozen=True)
class Registration:
    """What `@handler` says of a function."""

    name: str
    confirm: bool
    timeout_s: float


@dataclass(frozen=True)
class Handler:
    """What runs a tool: `run` takes valid arguments. `confirm`: never without a person's confirmation."""

    known: KnownTool
    run: Run
    confirm: bool = False
    timeout_s: float = TIMEOUT_S

    @property
    def name(self) -> str:
        return self.known.name


@dataclass(frozen=True)
class Outcome:
    """What a call came to: text for the model, and whether it is the handler's result or a failure."""

    text: str
    ok: bool


def handler(name: str, *, confirm: bool = False, timeout_s: float = TIMEOUT_S) -> Callable[[F], F]:
    """Register a function, `async` or not, as what runs the catalogue's tool `name`.

    With `confirm` each call waits until a person confirms it. A call that takes longer than `timeout_s` is given up.
    A function that is not `async` runs in a thread of its own; all that are share an event loop of theirs.
    """

    def register(function: F) -> F:
        setattr(function, HANDLER_NAME, Registration(name, confirm, timeout_s))
        return function

    return register


def make_handler(name: str, tool: Tool, run: Run, *, confirm: bool, timeout_s: float = TIMEOUT_S) -> Handler:
    """Return a handler for a tool. Raises ValueError if the schema of its arguments cannot be used."""
    validator, max_depth = build_validator(tool.parameters)
    return Handler(KnownTool(name, name, tool, validator, max_depth), run, confirm, timeout_s)


def wrap_function(function: Callable[..., Any]) -> Run:
    """Return what runs a function with arguments by name.

    Those that its hints name as models or enumerations are made of the JSON that a model wrote.
    """
    from pydantic import validate_call

    typed = validate_call(function)

    async def run(arguments: dict[str, Any]) -> Any:
        if inspect.iscoroutinefunction(function):
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(typed(**arguments), _handler_loop()))
        return await _run_in_thread(lambda: typed(**arguments))

    return run


async def run_handler(chosen: Handler, arguments: dict[str, Any]) -> Outcome:
    """Return the outcome of a call; whatever the handler does, it is a message within the handler's time."""
    task = asyncio.ensure_future(_run_to_text(chosen, arguments))
    done, _ = await asyncio.wait({task}, timeout=chosen.timeout_s)
    if not done:
        task.cancel()  # not awaited: a handler may refuse to end
        return Outcome(f"{chosen.name} did not answer within {chosen.timeout_s:g} s", False)
    return task.result()


async def _run_to_text(chosen: Handler, arguments: dict[str, Any]) -> Outcome:
    try:
        return Outcome(_to_text(await chosen.run(arguments)), True)
    except (Exception, SystemExit, asyncio.CancelledError, GeneratorExit) as error:  # the handler's own
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return Outcome(f"{chosen.name} failed: {redact(reason)[:MAX_ERROR]}", False)


def _to_text(result: Any) -> str:
    if isinstance(result, str):
        return result
    from pydantic_core import to_json

    return to_json(result, fallback=str).decode("utf-8", "replace")


@cache
def _handler_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of all `async` functions of users, in a daemon thread: one that blocks or refuses to be
    cancelled holds up neither the assistant nor the end of its process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


async def _run_in_thread(function: Callable[[], Any]) -> Any:
    """Run a function in a daemon thread: unlike an executor's, one that hangs keeps no process from ending."""
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    future: asyncio.Future[Any] = loop.create_future()

    def report(result: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(result)

    def run() -> None:
        result: Any = None
        problem: BaseException | None = None
        try:
            result = context.run(function)
        except BaseException as error:
            is_taken = isinstance(error, Exception) and not isinstance(error, StopIteration)
            problem = error if is_taken else RuntimeError(f"{type(error).__name__}: {error}")
        if not loop.is_closed():
            loop.call_soon_threadsafe(report, result, problem)

    threading.Thread(target=run, daemon=True).start()
    return await future
