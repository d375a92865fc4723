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
        f"{run} answers at {url}; Ctrl-C stops it. To use it:\n  tuneline chat {url}\n"
        f"  curl {url}/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"
    )


def describe_answers(name: str, *, on_modal: bool) -> str:
    """Return who answers under a promoted name, and the next command."""
    if on_modal:
        return f"the deployed gateway follows within seconds; next: tuneline chat $TUNELINE_BASE_URL --model {name}"
    return (
        "a gateway that runs here follows within seconds; without one: `tuneline keys add OWNER`, `tuneline gateway`, "
        f"then TUNELINE_API_KEY=KEY tuneline chat http://127.0.0.1:8080/v1 --model {name}"
    )


def format_version(version: Mapping[str, Any]) -> str:
    """Return a promoted version in a line: which run and bytes, promoted by whom and when, and the gate's outcome."""
    override = f", overridden: {version['override']}" if version["override"] else ""
    digest = version["files"].get(version["file"])  # of a folder there are several
    file = f"{version['file']}, SHA-256 {digest[:16]}…" if digest else version["file"]
    promotion = f"{version['run']} ({file}; version {version['number']}, by {version['by']}, {version['at'][:19]}"
    return f"{promotion}; gate: {version['gate']}{override})"
