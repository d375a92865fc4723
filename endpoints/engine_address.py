"""Where the engine of a promoted model is, and what it is sent besides a request's own fields."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from tuneline.endpoints.forbidden_calls import forbid_calls
from tuneline.endpoints.forced_tools import force_tools
from tuneline.engines.control_tokens import ControlTokens


class SelectsTools(Protocol):
    """Chooses the tools that a model is shown: `tool_selection.ToolSelector`."""

    def select(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], choice: Any = None
    ) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class EngineAddress:
    """Where a request for a promoted model goes, and what it needs there."""

    base_url: str | None
    """Of the OpenAI API, with `/v1`; None while nothing answers for the name."""
    fields: Mapping[str, Any]
    """What replaces fields of the request's body: the engine's name of the model, and template and stop tokens if it
    needs them."""
    tool_selector: SelectsTools | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that the address demands."""
    follows_redirects: bool = False
    """Whether an answer may be behind a redirect, as Modal's late ones are."""
    control_tokens: ControlTokens | None = None
    """Of the model's tokenizer; None where whoever answers there sees to them."""

    known_choices: Collection[str] = ("function", "allowed_tools")
    """Types of `tool_choice` that name tools and are honoured there: `function` by vLLM, none by llama-server."""

    without_calls: Mapping[str, Any] = field(default_factory=dict)
    """Fields with which the engine generates no call, for `tool_choice: none`; none where whoever answers there sees
    to it."""

    def complete(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request's body as this engine takes it: its fields, the tools that its run is shown, and no control
        token in what the caller wrote."""
        payload = {**(self.control_tokens.neutralize(body) if self.control_tokens else body), **self.fields}
        if path == "chat/completions":
            payload = force_tools(payload, self.known_choices)
            if self.without_calls and payload.get("tool_choice") == "none":
                return forbid_calls(payload, self.without_calls)
        if self.tool_selector and path == "chat/completions" and body.get("tools"):
            shown = self.tool_selector.select(payload["messages"], payload["tools"], payload.get("tool_choice"))
            payload["tools"] = shown
        return payload


class Engines(Protocol):
    """The engines of promoted models: `EnginePool` has them here, `RemoteEngines` knows them behind an address."""

    @property
    def ready(self) -> bool:
        """Whether every promoted name is answered, or would be after it was woken."""

    def states(self) -> dict[str, str]:
        """Return promoted name → `ready`, `starting`, or `asleep` where the first request starts them."""

    def resolve(self, name: str) -> EngineAddress:
        """Return where a name is now. Raises NotFound if nothing is promoted under it."""

    def use(self, name: str) -> AbstractContextManager[EngineAddress]:
        """Hold a name's engine for one request: it is not stopped before the block ends."""
