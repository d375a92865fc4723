"""Tool selection: a model is shown at most as many tools as its run was prepared with, chosen as in evaluation.

So the model that is evaluated is the model that serves. Tools are chosen among the request's own, never others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import dotted_name
from tuneline.core.artifacts import open_artifact
from tuneline.stages.prepare.rendering.tool_preselector import PRESELECTOR_FILE, Preselector

Message = dict[str, Any]
Schema = dict[str, Any]


@dataclass(frozen=True)
class ToolSelector:
    """A run's tool preselector, and how many tools it shows."""

    preselector: Preselector
    limit: int

    def select(self, messages: Sequence[Message], tools: Sequence[Schema], choice: Any = None) -> list[Schema]:
        """Return the `limit` tools nearest to the last user message, in the catalogue's order; all if there are fewer.

        Tools that the run does not know are kept, and so is the tool that `choice` (OpenAI's tool_choice) names.
        """
        if len(tools) <= self.limit:
            return list(tools)
        tools_by_name = {dotted_name(tool["function"]["name"]): tool for tool in tools}
        forced = dotted_name(choice["function"]["name"]) if isinstance(choice, dict) else None
        always = [name for name in tools_by_name if name == forced or name not in self.preselector.documents]
        candidates = tools_by_name.keys() - set(always)
        nearest = self.preselector.select(_last_user_text(messages), max(0, self.limit - len(always)), candidates)
        return [tools_by_name[name] for name in (*nearest, *always)]


def load_tool_selector(run: Path) -> ToolSelector | None:
    """Return the run's tool selector, or None if the run was prepared without a preselector.

    Raises:
        NotFound: the run is not prepared. StageFailed: what was prepared is damaged.
    """
    prepared = open_artifact(run / "prepare")
    if PRESELECTOR_FILE not in prepared.manifest.files:
        return None
    preselector = Preselector.load(prepared.path)
    preselector.nearest("")  # trained now, so that no request waits for it
    return ToolSelector(preselector, prepared.manifest.made_from.settings["data.nearest"])


def _last_user_text(messages: Sequence[Message]) -> str:
    return next((_text_of(message) for message in reversed(messages) if message["role"] == "user"), "")


def _text_of(message: Message) -> str:
    """Return a message's text; text parts are joined by newlines."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")
