"""A synthetic user request with the tool call that answers it."""

from dataclasses import dataclass
from typing import Any

from tuneline.engines.tool_calls import ToolCall
from tuneline.stages.prepare.rows import Row


@dataclass(frozen=True)
class Request:
    """One request and the call that answers it."""

    text: str
    tool: str
    arguments: dict[str, Any]
    phrasing: str
    """The request with values as `_`, without opener and closer."""


def to_row(request: Request, system: str, source: str) -> Row:
    """Return a row with the request and its call. It shows no tools yet; they are selected later."""
    head = [{"role": "system", "content": system}] if system else []
    call = ToolCall(request.tool, request.arguments).openai()
    messages = [*head, {"role": "user", "content": request.text}, {"role": "assistant", "tool_calls": [call]}]
    return Row.model_validate({"messages": messages, "source": source})
