"""Tools of an MCP server, by the official client: a server at an address, or one that a command starts."""

import shlex
from typing import Any

from tuneline.core.errors import BadRequest, StageFailed
from tuneline.core.redaction import redact_url
from tuneline.stages.tool_import.imported import ImportedTools, make_catalogue, to_tool_name

PREFIX = "mcp:"
"""Before a server's address or command: `mcp:https://host/mcp`, `mcp:python server.py`."""
CONNECT_TIMEOUT_S = 30.0


def is_mcp_source(source: str) -> bool:
    return source.startswith(PREFIX)


def make_client(source: str) -> Any:
    """Return the official client for a source; use it in `async with`.

    Raises:
        BadRequest: mcp is not installed, or no address or command.
    """
    try:
        from mcp import Client, StdioServerParameters
    except ImportError:
        raise BadRequest(f"{_shown(source)}: pip install 'tuneline[assistant]' installs the client of MCP") from None
    where = source.removeprefix(PREFIX).strip()
    if where.startswith(("http://", "https://")):
        return Client(where, read_timeout_seconds=CONNECT_TIMEOUT_S)
    words = shlex.split(where)
    if not words:
        raise BadRequest(
            f"{source}: write {PREFIX}https://host/mcp, or {PREFIX} and the command that starts the server"
        )
    return Client(StdioServerParameters(command=words[0], args=words[1:]), read_timeout_seconds=CONNECT_TIMEOUT_S)


async def list_tools(client: Any) -> list[Any]:
    """Return all tools of a server whose client is connected, page by page."""
    tools: list[Any] = []
    cursor = None
    while True:
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if not cursor:
            return tools


def name_tools(tools: list[Any]) -> dict[str, Any]:
    """Return a server's tools by the names that a catalogue has them under."""
    named: dict[str, Any] = {}
    for tool in tools:
        named[to_tool_name(tool.name, named)] = tool
    return named


async def import_mcp_tools(source: str) -> ImportedTools:
    """Return the tools of an MCP server.

    Raises:
        BadRequest: as for `make_client`. StageFailed: no server answers there.
    """
    client = make_client(source)
    try:
        async with client:
            named = name_tools(await list_tools(client))
    except Exception as error:  # anyio wraps what the transport raised in groups
        raise StageFailed(f"{_shown(source)}: no MCP server answers: {_innermost(error)}") from None
    tools = {name: {"description": t.description or "", "parameters": t.input_schema} for name, t in named.items()}
    notes = tuple(f"{tool.name!r} is called {name!r}" for name, tool in named.items() if tool.name != name)
    return ImportedTools(make_catalogue(tools), notes)


def _shown(source: str) -> str:
    where = source.removeprefix(PREFIX)
    return f"{PREFIX}{redact_url(where)}"


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {str(error)[:200]}"
