"""Handlers from where people have them: a Python module, an API's OpenAPI description, an MCP server."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from tuneline.configs.catalogue import Catalogue, Tool
from tuneline.core.errors import BadData, BadRequest, StageFailed
from tuneline.endpoints.assistant.handlers import Handler, Registration, Run, make_handler, wrap_function
from tuneline.endpoints.assistant.openapi_calls import ApiCaller, CallFailed
from tuneline.stages.tool_import import load_api
from tuneline.stages.tool_import.mcp_servers import PREFIX, is_mcp_source, list_tools, make_client, name_tools
from tuneline.stages.tool_import.openapi import Api, Operation
from tuneline.stages.tool_import.python_functions import (
    HANDLER_NAME,
    describe_function,
    import_module,
    list_functions,
)

Handlers = dict[str, Handler]
"""By the dotted name of the tool that they run."""


@asynccontextmanager
async def open_handlers(
    sources: Iterable[str], catalogue: Catalogue | None = None, unconfirmed: Iterable[str] = ()
) -> AsyncIterator[Handlers]:
    """Yield the handlers of all sources, with servers and clients open until the context is left.

    With a catalogue, tools are as it describes them, and handlers that it does not name are left out. Names in
    `unconfirmed` run without a confirmation: operations that change something, and MCP tools that do not say that they
    only read, ask for one otherwise.

    Raises:
        BadRequest: two sources have a tool of one name, a name in `unconfirmed` is nobody's, or nothing is left.
        BadData: a source cannot be read. StageFailed: an MCP server does not answer.
    """
    async with AsyncExitStack() as stack:
        handlers: Handlers = {}
        for source in sources:
            for handler in await _open_source(source, stack):
                if handler.name in handlers:
                    raise BadRequest(
                        f"--handlers {source}: {handler.name!r} has a handler already; keep one of the two"
                    )
                handlers[handler.name] = handler
        if catalogue:
            handlers = {name: _as_described(handlers[name], catalogue) for name in catalogue.names if name in handlers}
        if not handlers:
            raise BadRequest("--handlers: no handler for any tool; `tuneline tools import` shows what a source has")
        yield _without_confirmation(handlers, list(unconfirmed))


async def _open_source(source: str, stack: AsyncExitStack) -> list[Handler]:
    try:
        if is_mcp_source(source):
            return await _open_mcp(source, stack)
        if api := load_api(source):
            return _operation_handlers(api, await stack.enter_async_context(ApiCaller(api)))
        if source.endswith((".json", ".yaml", ".yml")):
            raise BadData(f"{source}: a list of tools has nothing that runs them; give a module, OpenAPI or {PREFIX}…")
        return _module_handlers(source)
    except ValueError as error:
        raise error if isinstance(error, BadData | BadRequest) else BadData(f"{source}: {error}") from None


def _module_handlers(source: str) -> list[Handler]:
    handlers = []
    for name, function in list_functions(import_module(source)).items():
        registered: Registration = getattr(function, HANDLER_NAME, Registration(name, False, 30.0))
        tool = Tool.model_validate(describe_function(function))
        run = wrap_function(function)
        handlers.append(make_handler(name, tool, run, confirm=registered.confirm, timeout_s=registered.timeout_s))
    return handlers


def _operation_handlers(api: Api, caller: ApiCaller) -> list[Handler]:
    def bind(operation: Operation) -> Run:
        return lambda arguments: caller.call(operation, arguments)

    return [
        make_handler(
            operation.name,
            Tool(description=operation.description, parameters=operation.parameters),
            bind(operation),
            confirm=not operation.is_safe,
        )
        for operation in api.operations
    ]


async def _open_mcp(source: str, stack: AsyncExitStack) -> list[Handler]:
    try:
        client = await stack.enter_async_context(make_client(source))
        named = name_tools(await list_tools(client))
    except BadRequest:
        raise
    except Exception as error:  # anyio wraps what the transport raised in groups
        raise StageFailed(f"{source.split()[0]}: no MCP server answers: {type(error).__name__}") from None

    def bind(tool: Any) -> Run:
        async def run(arguments: dict[str, Any]) -> Any:
            result = await client.call_tool(tool.name, arguments)
            text = "\n".join(part.text for part in result.content if part.type == "text")
            if result.is_error:
                raise CallFailed(text[:300] or "the server says that it failed")
            return result.structured_content if result.structured_content is not None and not text else text

        return run

    return [
        make_handler(
            name,
            Tool(description=tool.description or "", parameters=tool.input_schema),
            bind(tool),
            confirm=not (tool.annotations and tool.annotations.read_only_hint),
        )
        for name, tool in named.items()
    ]


def _as_described(handler: Handler, catalogue: Catalogue) -> Handler:
    """Return a handler whose tool is the catalogue's: a model is shown what it was trained on."""
    tool = catalogue.tools[handler.name]
    return make_handler(handler.name, tool, handler.run, confirm=handler.confirm, timeout_s=handler.timeout_s)


def _without_confirmation(handlers: Handlers, names: list[str]) -> Handlers:
    for name in names:
        if name not in handlers:
            raise BadRequest(f"--unconfirmed {name}: no handler has this name; there are {', '.join(handlers)}")
    return {name: replace(handler, confirm=False) if name in names else handler for name, handler in handlers.items()}
