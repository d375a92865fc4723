"""Tool calls as the chat templates in `configs/templates` write them for Llama 3."""

import json

from tuneline.configs.catalogue import wire_name
from tuneline.engines.tool_calls import SEPARATOR, TAG, ToolCall


def render_tool_calls(calls: list[ToolCall]) -> str:
    """Return the text that a model learns to write for `calls`."""
    rendered = [
        f'{{"name": "{wire_name(c.name)}", "parameters": {json.dumps(c.arguments, ensure_ascii=False)}}}' for c in calls
    ]
    return TAG + SEPARATOR.join(rendered)
