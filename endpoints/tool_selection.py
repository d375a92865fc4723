"""A model is shown at most as many tools as its run was prepared with, chosen as evaluation chooses them.

So what is judged is what goes live. They are chosen among the request's own tools, never others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import dotted_name
from tuneline.configs.recipe import recipe_of
from tuneline.stages.prepare.rendering.tool_preselector import FILE, Preselector

Message = dict[str, Any]
Schema = dict[str, Any]


@dataclass(frozen=True)
class Narrowing:
    """The preselector of a run, and how many tools it leaves."""

    selector: Preselector
    most: int

    def tools(self, messages: Sequence[Message], tools: Sequence[Schema], choice: Any = None) -> list[Schema]:
        """The tools nearest to the last request, in the catalogue's order; all, if they are no more than that.

        A tool the run does not know stays, and so does the one that `choice` (OpenAI's tool_choice) asks for.
        """
        if len(tools) <= self.most:
            return list(tools)
        given = {dotted_name(tool["function"]["name"]): tool for tool in tools}
        forced = dotted_name(choice["function"]["name"]) if isinstance(choice, dict) else None
        kept = [name for name in given if name == forced or name not in self.selector.documents]
        asked = next((text_of(message) for message in reversed(messages) if message["role"] == "user"), "")
        others = given.keys() - set(kept)
        nearest = self.selector.shown(asked, max(0, self.most - len(kept)), others)
        return [given[name] for name in (*nearest, *kept)]


def narrowing_of(run: Path) -> Narrowing | None:
    """Of a run that was prepared with a preselector; None of another, whose model is shown what a request brings."""
    prepared = run / "prepare"
    if not (prepared / FILE).exists():
        return None
    recipe, selector = recipe_of(run), Preselector.read(prepared)
    selector.nearest("")  # trained now, so that no request waits for it
    return Narrowing(selector, recipe.data.nearest)


def text_of(message: Message) -> str:
    """What a message says, whole or in parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")
