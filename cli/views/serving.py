"""What `serve`, `promote` and `rollback` print."""

import json
from collections.abc import Mapping
from typing import Any

from rich.text import Text


def render_endpoint(run: str, url: str, *, with_key: bool) -> Text:
    """Return where a served model answers, and two commands that ask it; `with_key` if requests need an API key."""
    key = ' -H "Authorization: Bearer $TUNELINE_API_KEY"' if with_key else ""
    body = json.dumps({"model": run, "messages": [{"role": "user", "content": "hello"}]})
    return Text(
        f"{run} answers at {url}; Ctrl-C stops it. To ask it:\n  tuneline chat {url}\n"
        f"  curl {url}/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"
    )


def format_version(version: Mapping[str, Any]) -> str:
    """Return a promoted version in a line: which run, promoted by whom and when, and the gate's outcome."""
    override = f", overridden: {version['override']}" if version["override"] else ""
    promotion = f"{version['run']} (version {version['number']}, by {version['by']}, {version['at'][:19]}"
    return f"{promotion}; gate: {version['gate']}{override})"
