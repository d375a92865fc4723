"""The handlers, and `ask`, for clients of MCP: over standard input and output, or HTTP on loopback.

A client of MCP may be a program that agrees to everything. So a handler that has to be confirmed is not offered, and
one that `ask` would call waits until a person confirms it in the terminal.
"""

from typing import Any

from tuneline.core.errors import BadRequest, TunelineError
from tuneline.endpoints.assistant.caller import Caller, calling
from tuneline.endpoints.assistant.events import Done, Limits, Waiting
from tuneline.endpoints.assistant.handler_sources import Handlers
from tuneline.endpoints.assistant.handlers import Outcome, run_handler
from tuneline.endpoints.assistant.loop import Assistant
from tuneline.endpoints.assistant.store import Store
from tuneline.endpoints.assistant.untrusted_text import cut, neutralise

ASK = "ask"
_ASK_SCHEMA = {
    "type": "object",
    "properties": {
        "question": {"type": "string", "description": "What to ask."},
        "conversation": {"type": "string", "description": "The id of one to go on with."},
    },
    "required": ["question"],
    "additionalProperties": False,
}


def build_server(assistant: Assistant | None, handlers: Handlers, store: Store, owner: str) -> Any:
    """Return an MCP server of the handlers that need no confirmation, and of `ask` if there is an assistant.

    Raises:
        BadRequest: mcp is not installed, or a handler is called `ask`.
    """
    try:
        from mcp import types
        from mcp.server.lowlevel import Server
    except ImportError:
        raise BadRequest("pip install 'tuneline[assistant]' installs the server of MCP") from None
    if ASK in handlers:
        raise BadRequest(f"a handler is called {ASK!r}, as the assistant is; give it another name")
    offered = {name: handler for name, handler in handlers.items() if not handler.confirm}

    async def list_tools(_: Any, __: Any) -> Any:
        tools = [
            types.Tool(
                name=name, description=handler.known.tool.description, input_schema=handler.known.tool.parameters
            )
            for name, handler in offered.items()
        ]
        if assistant:
            tools.append(types.Tool(name=ASK, description="Ask the assistant.", input_schema=_ASK_SCHEMA))
        return types.ListToolsResult(tools=tools)

    async def call_tool(_: Any, params: Any) -> Any:
        arguments = params.arguments or {}
        if params.name == ASK and assistant:
            outcome = await _ask(assistant, owner, arguments)
        elif params.name in offered:
            outcome = await _call(offered, params.name, arguments, Caller(owner, "", store))
        else:
            outcome = Outcome(f"there is no tool {params.name!r}", False)
        content = [types.TextContent(type="text", text=outcome.text)]
        return types.CallToolResult(content=content, is_error=not outcome.ok)

    return Server("tuneline", on_list_tools=list_tools, on_call_tool=call_tool)


async def serve_stdio(server: Any) -> None:
    """Serve one client over standard input and output, until it leaves."""
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


async def serve_http(server: Any, port: int) -> None:
    """Serve clients at http://127.0.0.1:PORT/mcp, until the process is interrupted."""
    import uvicorn

    config = uvicorn.Config(server.streamable_http_app(), "127.0.0.1", port, log_level="warning")
    await uvicorn.Server(config).serve()


async def _call(offered: Handlers, name: str, arguments: dict[str, Any], caller: Caller) -> Outcome:
    if problem := offered[name].known.check(arguments):
        return Outcome(f"{name} did not run: {problem}", False)
    with calling(caller):
        outcome = await run_handler(offered[name], arguments)
    return Outcome(neutralise(cut(outcome.text, Limits().result_characters)), outcome.ok)


async def _ask(assistant: Assistant, owner: str, arguments: dict[str, Any]) -> Outcome:
    question, conversation = arguments.get("question"), arguments.get("conversation")
    if not isinstance(question, str) or not isinstance(conversation, str | None):
        return Outcome("question: a text; conversation: an id, or nothing", False)
    waiting: list[str] = []
    end: Done | None = None
    try:
        async for event in assistant.ask(owner, question, conversation):
            if isinstance(event, Waiting):
                name, identity = event.pending.name, event.pending.id
                waiting.append(f"{name} waits: a person confirms it by `tuneline assistant … --confirm {identity}`")
            elif isinstance(event, Done):
                end = event
    except (TimeoutError, TunelineError) as error:
        return Outcome(f"{type(error).__name__}: {error}", False)
    assert end
    return Outcome("\n".join([*filter(None, [end.text]), *waiting, f"(conversation {end.conversation})"]), True)
